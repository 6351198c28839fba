// patch/pixels: y[n, i, j] = mask_at(n, (u, v)), which the kernel that includes this part declares, as it does y: [N, 1, H, W]
//
// An invocation computes one pixel; x runs over pixels, y over images.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    let plane_size = extents.h * extents.w;
    for (var n = id.y; n < extents.n; n += grid.y) {
        for (var p = id.x; p < plane_size; p += grid.x * 64u) {
            y[n * plane_size + p] = mask_at(n, place(n, offset(n, p / extents.w, p % extents.w)));
        }
    }
}
