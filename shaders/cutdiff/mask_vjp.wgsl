// cutdiff/mask_vjp: row sums of the matrix cotangent of cutdiff/mask,
//   y[n, :, i] = Σ_j −ȳ[n, i, j] · mask[n, i, j] / SOFTNESS · (u·dx, u·dy, v·dx, v·dy)
//
// An invocation computes the four sums of one image row.
const SOFTNESS: f32 = 0.1;

struct Extents {
    n: u32,
    h: u32,
    w: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> matrix: array<f32>;    // [N, 4]
@group(0) @binding(1) var<storage, read> centre: array<f32>;    // [N, 2]
@group(0) @binding(2) var<storage, read> ct_mask: array<f32>;   // [N, 1, H, W]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [N, 4, H]

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
    let dy = f32(i) - centre[2u * n + 1u];
    var sums = vec4<f32>();
    for (var j = 0u; j < extents.w; j += 1u) {
        let dx = f32(j) - centre[2u * n];
        let u = matrix[4u * n] * dx + matrix[4u * n + 1u] * dy;
        let v = matrix[4u * n + 2u] * dx + matrix[4u * n + 3u] * dy;
        let mask = exp(-(u * u + v * v) / (2.0 * SOFTNESS));
        sums -= ct_mask[index * extents.w + j] * mask / SOFTNESS * vec4<f32>(u * dx, u * dy, v * dx, v * dy);
    }
    for (var k = 0u; k < 4u; k += 1u) {
        y[(4u * n + k) * extents.h + i] = sums[k];
    }
}
