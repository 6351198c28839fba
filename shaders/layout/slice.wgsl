// layout/slice: y[o, j] = x[o, first + j]
//
// Invocations run along a row, workgroups along rows and within a row, in grid-stride loops.
struct Extents {
    outer: u32,
    x_row: u32,
    y_row: u32,
    first: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [outer, x_row]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [outer, y_row]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    for (var o = id.y; o < extents.outer; o += grid.y) {
        for (var j = id.x; j < extents.y_row; j += grid.x * 64u) {
            y[o * extents.y_row + j] = x[o * extents.x_row + extents.first + j];
        }
    }
}
