// reduce/sum_row: y[o] = Σ_j x[o, j]
//
// A workgroup computes one sum: each invocation adds every 64th term, then a tree adds the partial sums.
struct Extents {
    terms: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [outer, terms]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [outer]

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let o = workgroup.y * grid.x + workgroup.x;
    var sum = 0.0;
    if o < arrayLength(&y) {
        for (var j = lane; j < extents.terms; j += 64u) {
            sum += x[o * extents.terms + j];
        }
    }
    partial[lane] = sum;
    for (var half = 32u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if lane < half {
            partial[lane] += partial[lane + half];
        }
    }
    if lane == 0u && o < arrayLength(&y) {
        y[o] = partial[0];
    }
}
