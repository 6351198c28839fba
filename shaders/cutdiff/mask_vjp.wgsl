// cutdiff/mask_vjp: row sums of the matrix cotangent of cutdiff/mask,
//   y[n, :, i] = Σ_j −ȳ[n, i, j] · mask[n, i, j] / SOFTNESS · (u·dx, u·dy, v·dx, v·dy)
//
// Invocations map to rows as patch/rows says.
const SOFTNESS: f32 = 0.1;
const SUMS: u32 = 4;

@group(0) @binding(2) var<storage, read> ct_mask: array<f32>;   // [N, 1, H, W]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [N, 4, H]

fn slopes_at(n: u32, at: vec2<f32>) -> Slopes {
    let mask = exp(-(at.x * at.x + at.y * at.y) / (2.0 * SOFTNESS));
    return Slopes(mask / SOFTNESS, at.x, at.y, 0.0);
}

// include patch/place
// include patch/rows
