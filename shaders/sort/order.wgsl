// sort/order: y[rank(r, l), l] = r   where rank(r, l) = #{j : x[j, l] < x[r, l], or x[j, l] = x[r, l] and j < r}
//
// A NaN is greater than every number and equal to every NaN. An invocation counts the elements that precede its own in
// the column and writes its row there. Ranks are a permutation, so every place is written once.
struct Extents {
    rows: u32,
    columns: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [rows, columns]

// Tests the bits: compilers may assume that no number is NaN and fold a comparison.
fn is_nan(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u;
}

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
    let r = i / extents.columns;
    let l = i % extents.columns;
    let own = x[i];
    let own_is_nan = is_nan(own);
    var rank = 0u;
    for (var j = 0u; j < extents.rows; j += 1u) {
        let other = x[j * extents.columns + l];
        let other_is_nan = is_nan(other);
        let is_less = select(other < own, own_is_nan, own_is_nan != other_is_nan);
        let is_equal = select(other == own, own_is_nan && other_is_nan, own_is_nan || other_is_nan);
        if is_less || (is_equal && j < r) {
            rank += 1u;
        }
    }
    y[rank * extents.columns + l] = f32(r);
}
