// reduce/log_sum_exp: y[o] = log Σ_j exp(x[o, j])
//
// An invocation computes one sum. Terms are relative to the largest, so none overflows and the sum is at least 1.
struct Extents {
    terms: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [outer, terms]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [outer, 1]

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let o = (workgroup.y * grid.x + workgroup.x) * 64u + lane;
    if o >= arrayLength(&y) {
        return;
    }
    let first = o * extents.terms;
    var largest = x[first];
    for (var j = 1u; j < extents.terms; j += 1u) {
        largest = max(largest, x[first + j]);
    }
    var sum = 0.0;
    for (var j = 0u; j < extents.terms; j += 1u) {
        sum += exp(x[first + j] - largest);
    }
    y[o] = largest + log(sum);
}
