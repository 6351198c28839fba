// softbox/mask: y[n, i, j] = σ((1 − 2·|u|) / SOFTNESS) · σ((1 − 2·|v|) / SOFTNESS), with (u, v) by patch/place
//
// Invocations map to pixels as patch/pixels says.
const SOFTNESS: f32 = 0.1;

@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [N, 1, H, W]

fn mask_at(n: u32, at: vec2<f32>) -> f32 {
    return sigmoid((1.0 - 2.0 * abs(at.x)) / SOFTNESS) * sigmoid((1.0 - 2.0 * abs(at.y)) / SOFTNESS);
}

// include patch/sigmoid
// include patch/place
// include patch/pixels
