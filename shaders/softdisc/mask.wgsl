// softdisc/mask: y[n, i, j] = σ((1 − 4·(u² + v²)) / softness[n])
// with u = m₀·dx + m₁·dy, v = m₂·dx + m₃·dy; dx = j − centre_x, dy = i − centre_y
//
// An invocation computes one pixel; x runs over pixels, y over images.
struct Extents {
    n: u32,
    h: u32,
    w: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> matrix: array<f32>;    // [N, 4]
@group(0) @binding(1) var<storage, read> centre: array<f32>;    // [N, 2]
@group(0) @binding(2) var<storage, read> softness: array<f32>;  // [N, 1]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [N, 1, H, W]

// Both branches keep exp's argument negative, so that it cannot overflow.
fn sigmoid(v: f32) -> f32 {
    let e = exp(-abs(v));
    return select(e, 1.0, v >= 0.0) / (1.0 + e);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    let plane_size = extents.h * extents.w;
    for (var n = id.y; n < extents.n; n += grid.y) {
        for (var p = id.x; p < plane_size; p += grid.x * 64u) {
            let dx = f32(p % extents.w) - centre[2u * n];
            let dy = f32(p / extents.w) - centre[2u * n + 1u];
            let u = matrix[4u * n] * dx + matrix[4u * n + 1u] * dy;
            let v = matrix[4u * n + 2u] * dx + matrix[4u * n + 3u] * dy;
            y[n * plane_size + p] = sigmoid((1.0 - 4.0 * (u * u + v * v)) / softness[n]);
        }
    }
}
