// layout/concat: y[o, j] = a[o, j] for j < a_row, then b[o, j − a_row]
//
// Invocations run along a row of y, workgroups along rows and within a row, in grid-stride loops.
struct Extents {
    outer: u32,
    a_row: u32,
    b_row: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> a: array<f32>;         // [outer, a_row]
@group(0) @binding(1) var<storage, read> b: array<f32>;         // [outer, b_row]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [outer, a_row + b_row]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    let y_row = extents.a_row + extents.b_row;
    for (var o = id.y; o < extents.outer; o += grid.y) {
        for (var j = id.x; j < y_row; j += grid.x * 64u) {
            var value = 0.0;
            if j < extents.a_row {
                value = a[o * extents.a_row + j];
            } else {
                value = b[o * extents.b_row + j - extents.a_row];
            }
            y[o * y_row + j] = value;
        }
    }
}
