// warp/affine: y[n, c, i, j] = Σ_{a, b} x[n, c, a, b] · tri(ys − a) · tri(xs − b),   tri(t) = max(0, 1 − |t|)
// at xs = m₀·dx + m₁·dy + m₂ + (W−1)/2, ys = m₃·dx + m₄·dy + m₅ + (H−1)/2; dx = j − (W−1)/2, dy = i − (H−1)/2
//
// Bilinear; outside x is zero, or the nearest pixel if NEAREST is 1. An invocation computes one pixel in all channels;
// x runs over pixels, y over images.
const NEAREST: u32 = 0u;

struct Extents {
    n: u32,
    c: u32,
    h: u32,
    w: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [N, C, H, W]
@group(0) @binding(1) var<storage, read> matrix: array<f32>;    // [N, 6]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [N, C, H, W]

fn pixel(plane: u32, row: i32, column: i32) -> f32 {
    if row < 0 || row >= i32(extents.h) || column < 0 || column >= i32(extents.w) {
        return 0.0;
    }
    return x[(plane * extents.h + u32(row)) * extents.w + u32(column)];
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    let plane_size = extents.h * extents.w;
    let middle = 0.5 * vec2<f32>(f32(extents.w - 1u), f32(extents.h - 1u));
    // Nothing is read this far outside; the clamp keeps the conversion to integers defined.
    let far = vec2<f32>(f32(extents.w) + 2.0, f32(extents.h) + 2.0);
    for (var n = id.y; n < extents.n; n += grid.y) {
        let m = 6u * n;
        for (var p = id.x; p < plane_size; p += grid.x * 64u) {
            let d = vec2<f32>(f32(p % extents.w), f32(p / extents.w)) - middle;
            let sampled = vec2<f32>(
                matrix[m] * d.x + matrix[m + 1u] * d.y + matrix[m + 2u] + middle.x,
                matrix[m + 3u] * d.x + matrix[m + 4u] * d.y + matrix[m + 5u] + middle.y,
            );
            var at = sampled;
            if NEAREST == 1u {
                at = clamp(at, vec2<f32>(), 2.0 * middle);
            }
            let place = clamp(at, vec2<f32>(-3.0), far);
            let corner = floor(place);
            // A clamp may turn NaN into a limit. Test the bits: compilers may assume that NaN does not occur.
            let is_nan = (bitcast<vec2<u32>>(sampled) & vec2<u32>(0x7fffffffu)) > vec2<u32>(0x7f800000u);
            let f = select(place - corner, sampled, is_nan);
            let column = i32(corner.x);
            let row = i32(corner.y);
            for (var c = 0u; c < extents.c; c += 1u) {
                let plane = n * extents.c + c;
                let upper = (1.0 - f.x) * pixel(plane, row, column) + f.x * pixel(plane, row, column + 1);
                let lower = (1.0 - f.x) * pixel(plane, row + 1, column) + f.x * pixel(plane, row + 1, column + 1);
                y[plane * plane_size + p] = (1.0 - f.y) * upper + f.y * lower;
            }
        }
    }
}
