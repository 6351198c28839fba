// reduce/axis: y[o, k] = x[o, 0, k] ∘ x[o, 1, k] ∘ …, in the order of j, with a ∘ b = join(a, b) of the kernel that includes this part
//
// An invocation computes one element of y, or four along the inner axis.
alias X = f32; // or vec4<f32>: then inner counts vectors

struct Extents {
    terms: u32, // 1 or more
    inner: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<X>;         // [outer, terms, inner]
@group(0) @binding(1) var<storage, read_write> y: array<X>;   // [outer, inner]

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
    let first = i / extents.inner * extents.terms * extents.inner + i % extents.inner;
    var joined = x[first];
    for (var j = 1u; j < extents.terms; j += 1u) {
        joined = join(joined, x[first + j * extents.inner]);
    }
    y[i] = joined;
}
