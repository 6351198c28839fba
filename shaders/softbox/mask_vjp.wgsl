// softbox/mask_vjp: row sums of the matrix cotangent of softbox/mask,
//   y[n, :, i] = Σ_j −ȳ[n, i, j] · mask[n, i, j] / SOFTNESS · (p·dx, p·dy, q·dx, q·dy)
// with p = 2·sign(u) · (1 − σ((1 − 2·|u|) / SOFTNESS)), and q likewise for v
//
// Invocations map to rows as patch/rows says.
const SOFTNESS: f32 = 0.1;
const SUMS: u32 = 4;

@group(0) @binding(2) var<storage, read> ct_mask: array<f32>;   // [N, 1, H, W]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [N, 4, H]

fn slopes_at(n: u32, at: vec2<f32>) -> Slopes {
    let depth_u = (1.0 - 2.0 * abs(at.x)) / SOFTNESS;
    let depth_v = (1.0 - 2.0 * abs(at.y)) / SOFTNESS;
    let mask = sigmoid(depth_u) * sigmoid(depth_v);
    return Slopes(mask / SOFTNESS, 2.0 * sign(at.x) * sigmoid(-depth_u), 2.0 * sign(at.y) * sigmoid(-depth_v), 0.0);
}

// include patch/sigmoid
// include patch/place
// include patch/rows
