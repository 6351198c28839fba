// softdisc/mask_vjp: row sums of the cotangents of softdisc/mask,
//   y[n, :, i] = Σ_j −ȳ[n, i, j] · mask[n, i, j] · (1 − mask[n, i, j]) / softness[n] · (8u·dx, 8u·dy, 8v·dx, 8v·dy, depth)
// with depth = (1 − 4·(u² + v²)) / softness[n]: four for the matrix, one for the softness
//
// Invocations map to rows as patch/rows says.
const SUMS: u32 = 5;

@group(0) @binding(2) var<storage, read> softness: array<f32>;  // [N, 1]
@group(0) @binding(3) var<storage, read> ct_mask: array<f32>;   // [N, 1, H, W]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;   // [N, 5, H]

fn slopes_at(n: u32, at: vec2<f32>) -> Slopes {
    let depth = (1.0 - 4.0 * (at.x * at.x + at.y * at.y)) / softness[n];
    return Slopes(sigmoid(depth) * sigmoid(-depth) / softness[n], 8.0 * at.x, 8.0 * at.y, depth);
}

// include patch/sigmoid
// include patch/place
// include patch/rows
