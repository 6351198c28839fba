// patch/place: where a pixel lies in the patch of its image, for the masks of patches and their VJPs,
//   u = m₀·dx + m₁·dy, v = m₂·dx + m₃·dy; dx = j − centre_x, dy = i − centre_y

struct Extents {
    n: u32,
    h: u32,
    w: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> matrix: array<f32>;    // [N, 4]
@group(0) @binding(1) var<storage, read> centre: array<f32>;    // [N, 2]

// (dx, dy) of the pixel in row i and column j of image n.
fn offset(n: u32, i: u32, j: u32) -> vec2<f32> {
    return vec2(f32(j) - centre[2u * n], f32(i) - centre[2u * n + 1u]);
}

// (u, v) at an offset.
fn place(n: u32, d: vec2<f32>) -> vec2<f32> {
    return vec2(matrix[4u * n] * d.x + matrix[4u * n + 1u] * d.y, matrix[4u * n + 2u] * d.x + matrix[4u * n + 3u] * d.y);
}
