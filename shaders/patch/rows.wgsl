// patch/rows: row sums of a mask's cotangents,
//   y[n, 0..4, i] = Σ_j −ȳ[n, i, j] · weight · (slope_u·dx, slope_u·dy, slope_v·dx, slope_v·dy), of the matrix
//   y[n, 4, i] = Σ_j −ȳ[n, i, j] · weight · slope_softness, where SUMS = 5
// with slopes_at(n, (u, v)), SUMS, ct_mask: [N, 1, H, W] and y: [N, SUMS, H] as the kernel that includes this part declares them
//
// An invocation computes the sums of one image row.

// The negative derivative of a mask by u, v and softness is the weight times each.
struct Slopes {
    weight: f32,
    u: f32,
    v: f32,
    softness: f32,
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
    var of_matrix = vec4<f32>();
    var of_softness = 0.0;
    for (var j = 0u; j < extents.w; j += 1u) {
        let d = offset(n, i, j);
        let slopes = slopes_at(n, place(n, d));
        let weight = ct_mask[index * extents.w + j] * slopes.weight;
        of_matrix -= weight * vec4(slopes.u * d, slopes.v * d);
        of_softness -= weight * slopes.softness;
    }
    for (var k = 0u; k < 4u; k += 1u) {
        y[(SUMS * n + k) * extents.h + i] = of_matrix[k];
    }
    if SUMS == 5u {
        y[(SUMS * n + 4u) * extents.h + i] = of_softness;
    }
}
