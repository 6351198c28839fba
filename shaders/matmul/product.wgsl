// matmul/product: z[m,n] = Σ_k A(m,k) · B(k,n)
//
// A workgroup owns a TILE_M × TILE_N tile of z, an invocation MICRO_M × MICRO_N of it. Each slab of TILE_K columns of A
// and rows of B passes through workgroup memory once. Workgroups x enumerate tiles along N, y along M.

const TRANSPOSE_A: u32 = 0u; // 1: a holds Aᵀ
const TRANSPOSE_B: u32 = 0u; // 1: b holds Bᵀ

const TILE_M: u32 = 64u;
const TILE_N: u32 = 64u;
const TILE_K: u32 = 16u;
const MICRO_M: u32 = 4u;
const MICRO_N: u32 = 4u;

const COLUMNS: u32 = TILE_N / MICRO_N;
const INVOCATIONS: u32 = TILE_M / MICRO_M * COLUMNS;

struct Extents {
    m: u32,
    n: u32,
    k: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> a: array<f32>; // [M, K] or [K, M]
@group(0) @binding(1) var<storage, read> b: array<f32>; // [K, N] or [N, K]
@group(0) @binding(2) var<storage, read_write> z: array<f32>; // [M, N]

// Slabs are [TILE_K, TILE_M] and [TILE_K, TILE_N]. One more element a row keeps invocations that store a column, which
// is what reading a transposed tile along its rows comes to, in different memory banks.
const A_PITCH: u32 = TILE_M + 1u;
const B_PITCH: u32 = TILE_N + 1u;
var<workgroup> a_slab: array<f32, TILE_K * A_PITCH>;
var<workgroup> b_slab: array<f32, TILE_K * B_PITCH>;

// A, zero outside.
fn a_at(m: u32, k: u32) -> f32 {
    if m >= extents.m || k >= extents.k {
        return 0.0;
    }
    if TRANSPOSE_A == 1u {
        return a[k * extents.m + m];
    }
    return a[m * extents.k + k];
}

// B, zero outside.
fn b_at(k: u32, n: u32) -> f32 {
    if k >= extents.k || n >= extents.n {
        return 0.0;
    }
    if TRANSPOSE_B == 1u {
        return b[n * extents.k + k];
    }
    return b[k * extents.n + n];
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    let m_0 = workgroup.y * TILE_M;
    let n_0 = workgroup.x * TILE_N;
    let row = invocation / COLUMNS;
    let column = invocation % COLUMNS;

    var sums: array<array<f32, MICRO_N>, MICRO_M>;
    for (var k_0 = 0u; k_0 < extents.k; k_0 += TILE_K) {
        // Neighbouring invocations read neighbouring addresses, whichever way a factor is stored.
        for (var i = invocation; i < TILE_M * TILE_K; i += INVOCATIONS) {
            let m = select(i / TILE_K, i % TILE_M, TRANSPOSE_A == 1u);
            let k = select(i % TILE_K, i / TILE_M, TRANSPOSE_A == 1u);
            a_slab[k * A_PITCH + m] = a_at(m_0 + m, k_0 + k);
        }
        for (var i = invocation; i < TILE_K * TILE_N; i += INVOCATIONS) {
            let n = select(i % TILE_N, i / TILE_K, TRANSPOSE_B == 1u);
            let k = select(i / TILE_N, i % TILE_K, TRANSPOSE_B == 1u);
            b_slab[k * B_PITCH + n] = b_at(k_0 + k, n_0 + n);
        }
        workgroupBarrier();

        for (var k = 0u; k < TILE_K; k++) {
            var b_micro: array<f32, MICRO_N>;
            for (var j = 0u; j < MICRO_N; j++) {
                b_micro[j] = b_slab[k * B_PITCH + j * COLUMNS + column];
            }
            for (var i = 0u; i < MICRO_M; i++) {
                let a_micro = a_slab[k * A_PITCH + row * MICRO_M + i];
                for (var j = 0u; j < MICRO_N; j++) {
                    sums[i][j] = fma(a_micro, b_micro[j], sums[i][j]);
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < MICRO_M; i++) {
        for (var j = 0u; j < MICRO_N; j++) {
            let m = m_0 + row * MICRO_M + i;
            let n = n_0 + j * COLUMNS + column;
            if m < extents.m && n < extents.n {
                z[m * extents.n + n] = sums[i][j];
            }
        }
    }
}
