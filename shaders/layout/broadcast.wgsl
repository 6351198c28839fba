// layout/broadcast: y[o, m, i] = x[o, m, i], where x's stride is 0 along the axes it lacks
//
// Invocations run along the inner axis and workgroups along all three, in grid-stride loops.

// f32, or vec4s along the inner axis; x stays f32 if it is broadcast along the inner axis.
alias Y = f32;
alias X = f32;

struct Extents {
    outer: u32,
    middle: u32,
    inner: u32,
    x_outer: u32,
    x_middle: u32,
    x_inner: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read_write> y: array<Y>;   // [outer, middle, inner]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    for (var o = id.z; o < extents.outer; o += grid.z) {
        for (var m = id.y; m < extents.middle; m += grid.y) {
            let row = (o * extents.middle + m) * extents.inner;
            let x_row = o * extents.x_outer + m * extents.x_middle;
            for (var i = id.x; i < extents.inner; i += grid.x * 64u) {
                y[row + i] = Y(x[x_row + i * extents.x_inner]);
            }
        }
    }
}
