// pool/select: y[n, c, p, q] = x[n, c, index[n, c, p, q]]
//
// An invocation copies one element. An index counts the pixels of a plane.
struct Extents {
    pixels: u32,
    windows: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [N·C, pixels]
@group(0) @binding(1) var<storage, read> index: array<f32>;     // [N·C, windows]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [N·C, windows]

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
    y[i] = x[i / extents.windows * extents.pixels + u32(index[i])];
}
