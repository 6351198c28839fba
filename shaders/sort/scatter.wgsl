// sort/scatter: x̄[r, l] = Σ_k ȳ[k, l] where index[k, l] = r
//
// An invocation computes one element: it searches a column for its terms, in the order of k. An index beyond the last
// row means the last row.
struct Extents {
    terms: u32,
    rows: u32,
    columns: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> ct_y: array<f32>;         // [terms, columns]
@group(0) @binding(1) var<storage, read> index: array<f32>;        // [terms, columns]
@group(0) @binding(2) var<storage, read_write> ct_x: array<f32>;   // [rows, columns]

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
    let r = i / extents.columns;
    var sum = 0.0;
    for (var k = 0u; k < extents.terms; k += 1u) {
        let at = k * extents.columns + i % extents.columns;
        if min(u32(index[at]), extents.rows - 1u) == r {
            sum += ct_y[at];
        }
    }
    ct_x[i] = sum;
}
