// pool/mean: y[n, c, p, q] = Σ_{r, s} x[n, c, p·R + r, q·S + s] / (R·S)
//
// An invocation computes one mean; windows tile the picture.
struct Extents {
    p: u32,
    q: u32,
    r: u32,
    s: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [N·C, P·R, Q·S]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [N·C, P, Q]

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (workgroup.y * grid.x + workgroup.x) * 64u + lane;
    if i >= arrayLength(&y) {
        return;
    }
    let width = extents.q * extents.s;
    let corner = (i / extents.q) * extents.r * width + (i % extents.q) * extents.s;
    var sum = 0.0;
    for (var r = 0u; r < extents.r; r += 1u) {
        for (var s = 0u; s < extents.s; s += 1u) {
            sum += x[corner + r * width + s];
        }
    }
    y[i] = sum / f32(extents.r * extents.s);
}
