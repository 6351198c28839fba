// matmul/product: z[m,n] = Σ_k A(m,k) · B(k,n)
//
// On matrix units: A and B are rounded to f16 as they are staged; products and sums are f32. A workgroup owns a
// TILE_M × TILE_N tile of z. Each 32 of its invocations, which are one subgroup or several that do the same, own 2 × 2
// matrices of it. Each slab of TILE_K columns of A and rows of B passes through workgroup memory once. Workgroups x
// enumerate tiles along N, y along M.
enable f16;
enable wgpu_cooperative_matrix;

const TRANSPOSE_A: u32 = 0u; // 1: a holds Aᵀ
const TRANSPOSE_B: u32 = 0u; // 1: b holds Bᵀ

const TILE: u32 = 16u; // side of a matrix; its type's name follows
const TILE_K: u32 = 32u; // a multiple of TILE
const BLOCKS_M: u32 = 2u;
const BLOCKS_N: u32 = 2u;

alias StoredA = f32; // or f16
alias StoredB = f32; // or f16
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

const TILE_M: u32 = 2u * TILE * BLOCKS_M;
const TILE_N: u32 = 2u * TILE * BLOCKS_N;
const BLOCKS: u32 = BLOCKS_M * BLOCKS_N;
const INVOCATIONS: u32 = 32u * BLOCKS;

struct Extents {
    m: u32,
    n: u32,
    k: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> a: array<StoredA>; // [M, K] or [K, M]
@group(0) @binding(1) var<storage, read> b: array<StoredB>; // [K, N] or [N, K]
@group(0) @binding(2) var<storage, read_write> z: array<f32>; // [M, N]

// Matrices are read in rows of 16 bytes or more, aligned to 16; 8 more halves a row spread them over the memory banks.
const A_PITCH: u32 = TILE_K + 8u;
const B_PITCH: u32 = TILE_N + 8u;
var<workgroup> a_slab: array<f16, TILE_M * A_PITCH>; // [TILE_M, A_PITCH]
var<workgroup> b_slab: array<f16, TILE_K * B_PITCH>; // [TILE_K, B_PITCH]
var<workgroup> results: array<f32, BLOCKS * TILE * TILE>; // a matrix of each block

// A, zero outside.
fn a_at(m: u32, k: u32) -> f32 {
    if m >= extents.m || k >= extents.k {
        return 0.0;
    }
    if TRANSPOSE_A == 1u {
        return f32(a[k * extents.m + m]);
    }
    return f32(a[m * extents.k + k]);
}

// B, zero outside.
fn b_at(k: u32, n: u32) -> f32 {
    if k >= extents.k || n >= extents.n {
        return 0.0;
    }
    if TRANSPOSE_B == 1u {
        return f32(b[n * extents.k + k]);
    }
    return f32(b[k * extents.n + n]);
}

// Writes the matrix in `results` that the invocation's block has at this row and column.
fn write(invocation: u32, m_0: u32, n_0: u32) {
    let first = invocation / 32u * (TILE * TILE);
    for (var i = invocation % 32u; i < TILE * TILE; i += 32u) {
        let m = m_0 + i / TILE;
        let n = n_0 + i % TILE;
        if m < extents.m && n < extents.n {
            z[m * extents.n + n] = results[first + i];
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    let m_0 = workgroup.y * TILE_M;
    let n_0 = workgroup.x * TILE_N;
    let block = invocation / 32u;
    let row = block / BLOCKS_N * (2u * TILE);
    let column = block % BLOCKS_N * (2u * TILE);

    var sum_00: Sum;
    var sum_01: Sum;
    var sum_10: Sum;
    var sum_11: Sum;
    for (var k_0 = 0u; k_0 < extents.k; k_0 += TILE_K) {
        // Neighbouring invocations read neighbouring addresses, whichever way a factor is stored.
        for (var i = invocation; i < TILE_M * TILE_K; i += INVOCATIONS) {
            let m = select(i / TILE_K, i % TILE_M, TRANSPOSE_A == 1u);
            let k = select(i % TILE_K, i / TILE_M, TRANSPOSE_A == 1u);
            a_slab[m * A_PITCH + k] = f16(a_at(m_0 + m, k_0 + k));
        }
        for (var i = invocation; i < TILE_K * TILE_N; i += INVOCATIONS) {
            let n = select(i % TILE_N, i / TILE_K, TRANSPOSE_B == 1u);
            let k = select(i / TILE_N, i % TILE_K, TRANSPOSE_B == 1u);
            b_slab[k * B_PITCH + n] = f16(b_at(k_0 + k, n_0 + n));
        }
        workgroupBarrier();

        for (var k = 0u; k < TILE_K; k += TILE) {
            let left_0 = coopLoadT<Left>(&a_slab[row * A_PITCH + k], A_PITCH);
            let left_1 = coopLoadT<Left>(&a_slab[(row + TILE) * A_PITCH + k], A_PITCH);
            let right_0 = coopLoadT<Right>(&b_slab[k * B_PITCH + column], B_PITCH);
            let right_1 = coopLoadT<Right>(&b_slab[k * B_PITCH + column + TILE], B_PITCH);
            sum_00 = coopMultiplyAdd(left_0, right_0, sum_00);
            sum_01 = coopMultiplyAdd(left_0, right_1, sum_01);
            sum_10 = coopMultiplyAdd(left_1, right_0, sum_10);
            sum_11 = coopMultiplyAdd(left_1, right_1, sum_11);
        }
        workgroupBarrier();
    }

    // One matrix at a time leaves through workgroup memory. What is stored has to have a name.
    let result = &results[block * (TILE * TILE)];
    let pitch = TILE;
    let result_00 = sum_00;
    coopStoreT(result_00, result, pitch);
    workgroupBarrier();
    write(invocation, m_0 + row, n_0 + column);
    workgroupBarrier();
    let result_01 = sum_01;
    coopStoreT(result_01, result, pitch);
    workgroupBarrier();
    write(invocation, m_0 + row, n_0 + column + TILE);
    workgroupBarrier();
    let result_10 = sum_10;
    coopStoreT(result_10, result, pitch);
    workgroupBarrier();
    write(invocation, m_0 + row + TILE, n_0 + column);
    workgroupBarrier();
    let result_11 = sum_11;
    coopStoreT(result_11, result, pitch);
    workgroupBarrier();
    write(invocation, m_0 + row + TILE, n_0 + column + TILE);
}
