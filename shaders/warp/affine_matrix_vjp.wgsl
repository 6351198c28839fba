// warp/affine_matrix_vjp: row sums of the matrix cotangent of warp/affine,
//   y[n, k, i] = Σ_{c, j} ȳ[n, c, i, j] · s_k · o_k,   s = ∂y/∂xs for k < 3, ∂y/∂ys else;   o = (dx, dy, 1, dx, dy, 1)
//
// An invocation computes the six sums of one image row.
struct Extents {
    n: u32,
    c: u32,
    h: u32,
    w: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [N, C, H, W]
@group(0) @binding(1) var<storage, read> matrix: array<f32>;    // [N, 6]
@group(0) @binding(2) var<storage, read> ct_y: array<f32>;      // [N, C, H, W]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [N, 6, H]

fn pixel(plane: u32, row: i32, column: i32) -> f32 {
    if row < 0 || row >= i32(extents.h) || column < 0 || column >= i32(extents.w) {
        return 0.0;
    }
    return x[(plane * extents.h + u32(row)) * extents.w + u32(column)];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (workgroup.y * grid.x + workgroup.x) * 64u + lane;
    if index >= extents.n * extents.h {
        return;
    }
    let n = index / extents.h;
    let i = index % extents.h;
    let m = 6u * n;
    let middle = 0.5 * vec2<f32>(f32(extents.w - 1u), f32(extents.h - 1u));
    let far = vec2<f32>(f32(extents.w) + 2.0, f32(extents.h) + 2.0);
    let dy = f32(i) - middle.y;
    var along_x = vec3<f32>();
    var along_y = vec3<f32>();
    for (var j = 0u; j < extents.w; j += 1u) {
        let dx = f32(j) - middle.x;
        let at = vec2<f32>(
            matrix[m] * dx + matrix[m + 1u] * dy + matrix[m + 2u] + middle.x,
            matrix[m + 3u] * dx + matrix[m + 4u] * dy + matrix[m + 5u] + middle.y,
        );
        let place = clamp(at, vec2<f32>(-3.0), far);
        let corner = floor(place);
        // A clamp may turn NaN into a limit. Test the bits: compilers may assume that NaN does not occur.
        let is_nan = (bitcast<vec2<u32>>(at) & vec2<u32>(0x7fffffffu)) > vec2<u32>(0x7f800000u);
        let f = select(place - corner, at, is_nan);
        let column = i32(corner.x);
        let row = i32(corner.y);
        let offset = vec3<f32>(dx, dy, 1.0);
        for (var c = 0u; c < extents.c; c += 1u) {
            let plane = n * extents.c + c;
            let ct = ct_y[(plane * extents.h + i) * extents.w + j];
            let v00 = pixel(plane, row, column);
            let v01 = pixel(plane, row, column + 1);
            let v10 = pixel(plane, row + 1, column);
            let v11 = pixel(plane, row + 1, column + 1);
            along_x += ct * ((1.0 - f.y) * (v01 - v00) + f.y * (v11 - v10)) * offset;
            along_y += ct * ((1.0 - f.x) * (v10 - v00) + f.x * (v11 - v01)) * offset;
        }
    }
    let first = 6u * n * extents.h + i;
    for (var k = 0u; k < 3u; k += 1u) {
        y[first + k * extents.h] = along_x[k];
        y[first + (k + 3u) * extents.h] = along_y[k];
    }
}
