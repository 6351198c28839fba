// reduce/magnitude: y[g, l] = Σ_k Σ_j |x_k[g, j]|   over all j with j mod lanes = l
//
// An invocation computes one such sum, array by array. An empty array is not read.
struct Extents {
    lanes: u32,
    terms_a: u32,
    terms_b: u32,
    terms_c: u32,
    terms_d: u32,
    terms_e: u32,
    terms_f: u32,
    terms_g: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> a: array<f32>;         // [G, terms_a]
@group(0) @binding(1) var<storage, read> b: array<f32>;         // [G, terms_b]
@group(0) @binding(2) var<storage, read> c: array<f32>;         // [G, terms_c]
@group(0) @binding(3) var<storage, read> d: array<f32>;         // [G, terms_d]
@group(0) @binding(4) var<storage, read> e: array<f32>;         // [G, terms_e]
@group(0) @binding(5) var<storage, read> f: array<f32>;         // [G, terms_f]
@group(0) @binding(6) var<storage, read> g: array<f32>;         // [G, terms_g]
@group(0) @binding(7) var<storage, read_write> y: array<f32>;   // [G, lanes]

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
    let row = i / extents.lanes;
    let l = i % extents.lanes;
    var sum = 0.0;
    for (var j = l; j < extents.terms_a; j += extents.lanes) {
        sum += abs(a[row * extents.terms_a + j]);
    }
    for (var j = l; j < extents.terms_b; j += extents.lanes) {
        sum += abs(b[row * extents.terms_b + j]);
    }
    for (var j = l; j < extents.terms_c; j += extents.lanes) {
        sum += abs(c[row * extents.terms_c + j]);
    }
    for (var j = l; j < extents.terms_d; j += extents.lanes) {
        sum += abs(d[row * extents.terms_d + j]);
    }
    for (var j = l; j < extents.terms_e; j += extents.lanes) {
        sum += abs(e[row * extents.terms_e + j]);
    }
    for (var j = l; j < extents.terms_f; j += extents.lanes) {
        sum += abs(f[row * extents.terms_f + j]);
    }
    for (var j = l; j < extents.terms_g; j += extents.lanes) {
        sum += abs(g[row * extents.terms_g + j]);
    }
    y[i] = sum;
}
