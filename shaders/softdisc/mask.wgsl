// softdisc/mask: y[n, i, j] = σ((1 − 4·(u² + v²)) / softness[n]), with (u, v) by patch/place
//
// Invocations map to pixels as patch/pixels says.

@group(0) @binding(2) var<storage, read> softness: array<f32>;  // [N, 1]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [N, 1, H, W]

fn mask_at(n: u32, at: vec2<f32>) -> f32 {
    return sigmoid((1.0 - 4.0 * (at.x * at.x + at.y * at.y)) / softness[n]);
}

// include patch/sigmoid
// include patch/place
// include patch/pixels
