// warp/affine_image_vjp: x̄[n, c, a, b] = Σ_{i, j} ȳ[n, c, i, j] · tri(ys(i, j) − a) · tri(xs(i, j) − b)
// with tri, xs and ys as in warp/affine
//
// A gather: an invocation owns pixel (a, b) in all channels and visits the output pixels that may sample within one
// pixel of it. They lie in the preimage of a square; the inverse map gives its bounding box.
struct Extents {
    n: u32,
    c: u32,
    h: u32,
    w: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> matrix: array<f32>;       // [N, 6]
@group(0) @binding(1) var<storage, read> ct_y: array<f32>;         // [N, C, H, W]
@group(0) @binding(2) var<storage, read_write> ct_x: array<f32>;   // [N, C, H, W]

// The last output pixel along one axis in a box that extends to `place`; the clamp keeps the conversion defined.
fn reach(place: f32, extent: u32) -> i32 {
    return i32(clamp(place, -1.0, f32(extent)));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    let plane_size = extents.h * extents.w;
    let size = vec2<f32>(f32(extents.w), f32(extents.h));
    let middle = 0.5 * (size - 1.0);
    for (var n = id.y; n < extents.n; n += grid.y) {
        let m = 6u * n;
        let shift = vec2<f32>(matrix[m + 2u], matrix[m + 5u]);
        let determinant = matrix[m] * matrix[m + 4u] - matrix[m + 1u] * matrix[m + 3u];
        let inverse_x = vec2<f32>(matrix[m + 4u], -matrix[m + 1u]) / determinant;
        let inverse_y = vec2<f32>(-matrix[m + 3u], matrix[m]) / determinant;
        let reach_x = abs(inverse_x.x) + abs(inverse_x.y);
        let reach_y = abs(inverse_y.x) + abs(inverse_y.y);
        // A map this close to singular maps images to a line; visit every output pixel.
        let regular = abs(determinant) > 1e-3;
        for (var p = id.x; p < plane_size; p += grid.x * 64u) {
            let own = vec2<f32>(f32(p % extents.w), f32(p / extents.w));
            let d = own - middle - shift;
            let centre = vec2<f32>(dot(inverse_x, d), dot(inverse_y, d)) + middle;
            // Half a pixel beyond the preimage, for the rounding of the inverse.
            var first = vec2<i32>(0, 0);
            var last = vec2<i32>(i32(extents.w) - 1, i32(extents.h) - 1);
            if regular {
                first = max(first, vec2<i32>(reach(floor(centre.x - reach_x - 0.5), extents.w), reach(floor(centre.y - reach_y - 0.5), extents.h)));
                last = min(last, vec2<i32>(reach(ceil(centre.x + reach_x + 0.5), extents.w), reach(ceil(centre.y + reach_y + 0.5), extents.h)));
            }
            for (var c = 0u; c < extents.c; c += 1u) {
                let plane = n * extents.c + c;
                var sum = 0.0;
                for (var i = first.y; i <= last.y; i += 1) {
                    for (var j = first.x; j <= last.x; j += 1) {
                        let e = vec2<f32>(f32(j), f32(i)) - middle;
                        let at = vec2<f32>(
                            matrix[m] * e.x + matrix[m + 1u] * e.y + matrix[m + 2u] + middle.x,
                            matrix[m + 3u] * e.x + matrix[m + 4u] * e.y + matrix[m + 5u] + middle.y,
                        );
                        let weight = max(1.0 - abs(at - own), vec2<f32>());
                        sum += weight.x * weight.y * ct_y[(plane * extents.h + u32(i)) * extents.w + u32(j)];
                    }
                }
                ct_x[plane * plane_size + p] = sum;
            }
        }
    }
}
