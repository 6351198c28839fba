// pool/mean_vjp: x̄[n, c, h, w] = ȳ[n, c, h / R, w / S] / (R·S)
//
// An invocation computes one element.
struct Extents {
    h: u32,
    w: u32,
    r: u32,
    s: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> ct_y: array<f32>;         // [N·C, H / R, W / S]
@group(0) @binding(1) var<storage, read_write> ct_x: array<f32>;   // [N·C, H, W]

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (workgroup.y * grid.x + workgroup.x) * 64u + lane;
    if i >= arrayLength(&ct_x) {
        return;
    }
    // H is a multiple of R, so the row index over all planes divides as each plane's does.
    let p = i / extents.w / extents.r;
    let q = i % extents.w / extents.s;
    ct_x[i] = ct_y[p * (extents.w / extents.s) + q] / f32(extents.r * extents.s);
}
