// cutdiff/mask: y[n, i, j] = exp(−(u² + v²) / (2 · SOFTNESS)), with (u, v) by patch/place
//
// Invocations map to pixels as patch/pixels says.
const SOFTNESS: f32 = 0.1;

@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [N, 1, H, W]

fn mask_at(n: u32, at: vec2<f32>) -> f32 {
    return exp(-(at.x * at.x + at.y * at.y) / (2.0 * SOFTNESS));
}

// include patch/place
// include patch/pixels
