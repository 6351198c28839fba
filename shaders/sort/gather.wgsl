// sort/gather: y[k, l] = x[index[k, l], l]
//
// An invocation copies one element. An index beyond the last row reads the last row, so no access is out of bounds.
struct Extents {
    rows: u32,
    columns: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(1) var<storage, read> index: array<f32>;     // [K, columns]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [K, columns]

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
    y[i] = x[min(u32(index[i]), extents.rows - 1u) * extents.columns + i % extents.columns];
}
