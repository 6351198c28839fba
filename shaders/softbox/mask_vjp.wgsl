// softbox/mask_vjp: row sums of the matrix cotangent of softbox/mask,
//   y[n, :, i] = Σ_j −ȳ[n, i, j] · mask[n, i, j] / SOFTNESS · (p·dx, p·dy, q·dx, q·dy)
// with p = 2·sign(u) · (1 − σ((1 − 2·|u|) / SOFTNESS)), and q likewise for v
//
// An invocation computes the four sums of one image row.
const SOFTNESS: f32 = 0.1;

struct Extents {
    n: u32,
    h: u32,
    w: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> matrix: array<f32>;    // [N, 4]
@group(0) @binding(1) var<storage, read> centre: array<f32>;    // [N, 2]
@group(0) @binding(2) var<storage, read> ct_mask: array<f32>;   // [N, 1, H, W]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [N, 4, H]

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
    var sums = vec4<f32>();
    for (var j = 0u; j < extents.w; j += 1u) {
        let dx = f32(j) - centre[2u * n];
        let u = matrix[4u * n] * dx + matrix[4u * n + 1u] * dy;
        let v = matrix[4u * n + 2u] * dx + matrix[4u * n + 3u] * dy;
        let depth_u = (1.0 - 2.0 * abs(u)) / SOFTNESS;
        let depth_v = (1.0 - 2.0 * abs(v)) / SOFTNESS;
        let mask = sigmoid(depth_u) * sigmoid(depth_v);
        let p = 2.0 * sign(u) * sigmoid(-depth_u);
        let q = 2.0 * sign(v) * sigmoid(-depth_v);
        sums -= ct_mask[index * extents.w + j] * mask / SOFTNESS * vec4<f32>(p * dx, p * dy, q * dx, q * dy);
    }
    for (var k = 0u; k < 4u; k += 1u) {
        y[(4u * n + k) * extents.h + i] = sums[k];
    }
}
