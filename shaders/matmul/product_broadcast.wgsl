// matmul/product on CPU drivers: z[m,n] = Σ_k A(m,k) · B(k,n)
//
// A workgroup is one SIMD vector. Its lanes lie along N, or along M if LANES_ALONG_M, and each of them owns a block of
// MICRO_ALONG × MICRO_ACROSS elements of z, counted along and across that axis. Across it, indices depend on
// workgroup_id alone, so that a scalar load and a broadcast serve all lanes. Workgroups x enumerate blocks along, y
// across.

const TRANSPOSE_A: u32 = 0u; // 1: a holds Aᵀ
const TRANSPOSE_B: u32 = 0u; // 1: b holds Bᵀ

const LANES: u32 = 8u;
const LANES_ALONG_M: u32 = 0u;
const MICRO_ALONG: u32 = 4u;
const MICRO_ACROSS: u32 = 8u;

struct Extents {
    m: u32,
    n: u32,
    k: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> a: array<f32>; // [M, K] or [K, M]
@group(0) @binding(1) var<storage, read> b: array<f32>; // [K, N] or [N, K]
@group(0) @binding(2) var<storage, read_write> z: array<f32>; // [M, N]

fn a_at(m: u32, k: u32) -> f32 {
    let row = min(m, extents.m - 1u);
    if TRANSPOSE_A == 1u {
        return a[k * extents.m + row];
    }
    return a[row * extents.k + k];
}

fn b_at(k: u32, n: u32) -> f32 {
    let column = min(n, extents.n - 1u);
    if TRANSPOSE_B == 1u {
        return b[column * extents.k + k];
    }
    return b[k * extents.n + column];
}

// Indices beyond M and N repeat the last one: a branch would cost all lanes more. Only the stores are guarded.
@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let along_0 = workgroup.x * (LANES * MICRO_ALONG) + lane;
    let across_0 = workgroup.y * MICRO_ACROSS;

    var sums: array<array<f32, MICRO_ALONG>, MICRO_ACROSS>;
    for (var k = 0u; k < extents.k; k++) {
        var along: array<f32, MICRO_ALONG>;
        for (var j = 0u; j < MICRO_ALONG; j++) {
            if LANES_ALONG_M == 1u {
                along[j] = a_at(along_0 + j * LANES, k);
            } else {
                along[j] = b_at(k, along_0 + j * LANES);
            }
        }
        for (var i = 0u; i < MICRO_ACROSS; i++) {
            var across: f32;
            if LANES_ALONG_M == 1u {
                across = b_at(k, across_0 + i);
            } else {
                across = a_at(across_0 + i, k);
            }
            for (var j = 0u; j < MICRO_ALONG; j++) {
                sums[i][j] = fma(across, along[j], sums[i][j]);
            }
        }
    }

    for (var i = 0u; i < MICRO_ACROSS; i++) {
        for (var j = 0u; j < MICRO_ALONG; j++) {
            let m = select(across_0 + i, along_0 + j * LANES, LANES_ALONG_M == 1u);
            let n = select(along_0 + j * LANES, across_0 + i, LANES_ALONG_M == 1u);
            if m < extents.m && n < extents.n {
                z[m * extents.n + n] = sums[i][j];
            }
        }
    }
}
