// softdisc/mask_vjp: row sums of the cotangents of softdisc/mask,
//   y[n, :, i] = Σ_j −ȳ[n, i, j] · mask[n, i, j] · (1 − mask[n, i, j]) / softness[n] · (8u·dx, 8u·dy, 8v·dx, 8v·dy, depth)
// with depth = (1 − 4·(u² + v²)) / softness[n]: four for the matrix, one for the softness
//
// An invocation computes the five sums of one image row.
struct Extents {
    n: u32,
    h: u32,
    w: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> matrix: array<f32>;    // [N, 4]
@group(0) @binding(1) var<storage, read> centre: array<f32>;    // [N, 2]
@group(0) @binding(2) var<storage, read> softness: array<f32>;  // [N, 1]
@group(0) @binding(3) var<storage, read> ct_mask: array<f32>;   // [N, 1, H, W]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;   // [N, 5, H]

// Both branches keep exp's argument negative, so that it cannot overflow.
fn sigmoid(v: f32) -> f32 {
    let e = exp(-abs(v));
    return select(e, 1.0, v >= 0.0) / (1.0 + e);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (workgroup.y * grid.x + workgroup.x) * 64u + lane;
    if index >= extents.n * extents.h {
        return;
    }
    let n = index / extents.h;
    let i = index % extents.h;
    let dy = f32(i) - centre[2u * n + 1u];
    var of_matrix = vec4<f32>();
    var of_softness = 0.0;
    for (var j = 0u; j < extents.w; j += 1u) {
        let dx = f32(j) - centre[2u * n];
        let u = matrix[4u * n] * dx + matrix[4u * n + 1u] * dy;
        let v = matrix[4u * n + 2u] * dx + matrix[4u * n + 3u] * dy;
        let depth = (1.0 - 4.0 * (u * u + v * v)) / softness[n];
        let slope = ct_mask[index * extents.w + j] * sigmoid(depth) * sigmoid(-depth) / softness[n];
        of_matrix -= slope * 8.0 * vec4<f32>(u * dx, u * dy, v * dx, v * dy);
        of_softness -= slope * depth;
    }
    for (var k = 0u; k < 4u; k += 1u) {
        y[(5u * n + k) * extents.h + i] = of_matrix[k];
    }
    y[(5u * n + 4u) * extents.h + i] = of_softness;
}
