// gemm/matrix: y(m,n) = Σ_k A(m,k) · B(k,n), after gemm/loads: the products of kernels on matrix units
//
// A and B are rounded to f16 as they are stored in workgroup memory; products and sums are f32. Each block of 32 invocations,
// which are one subgroup or several that do the same, owns 4 × 2 matrices of the workgroup's tile, TILE × TILE each. Two slabs
// lie in workgroup memory: one is multiplied while the next is on its way into registers, so that a slab takes one barrier.

const TILE: u32 = 16u; // side of a matrix; its type's name follows
const BLOCKS_M: u32 = 2u;
const BLOCKS_N: u32 = 4u;

alias StoredA = f32; // or f16
alias StoredB = f32; // or f16
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

const TILE_M: u32 = 4u * TILE * BLOCKS_M;
const TILE_N: u32 = 2u * TILE * BLOCKS_N;
const TILE_K: u32 = 16u; // a multiple of TILE
const INVOCATIONS: u32 = 32u * BLOCKS_M * BLOCKS_N;

// A slab lies as its factor does in memory: in rows of k, or of m or n. Matrices are read in rows of 16 bytes or more, aligned to
// 16; 8 more halves a row spread them over the memory banks.
const A_PITCH: u32 = select(TILE_M, TILE_K, A_ALONG_K == 1u) + 8u;
const B_PITCH: u32 = select(TILE_N, TILE_K, B_ALONG_K == 1u) + 8u;
const A_SLAB: u32 = select(TILE_K, TILE_M, A_ALONG_K == 1u) * A_PITCH;
const B_SLAB: u32 = select(TILE_K, TILE_N, B_ALONG_K == 1u) * B_PITCH;
var<workgroup> a_slabs: array<f16, 2u * A_SLAB>;
var<workgroup> b_slabs: array<f16, 2u * B_SLAB>;
var<workgroup> results: array<f32, BLOCKS_M * BLOCKS_N * TILE * TILE>; // a matrix of each block

// Where an element lies in a slab.
fn a_at(m: u32, k: u32) -> u32 {
    return select(k * A_PITCH + m, m * A_PITCH + k, A_ALONG_K == 1u);
}
fn b_at(k: u32, n: u32) -> u32 {
    return select(k * B_PITCH + n, n * B_PITCH + k, B_ALONG_K == 1u);
}

fn store_a(slab: u32, k: u32, group: u32, quad: vec4<StoredA>) {
    let halves = vec4<f16>(quad);
    for (var e = 0u; e < 4u; e++) {
        a_slabs[slab * A_SLAB + a_at(e * M_QUADS + group, k)] = halves[e];
    }
}
fn store_b(slab: u32, k: u32, group: u32, quad: vec4<StoredB>) {
    let halves = vec4<f16>(quad);
    for (var e = 0u; e < 4u; e++) {
        b_slabs[slab * B_SLAB + b_at(k, e * N_QUADS + group)] = halves[e];
    }
}

fn left_at(slab: u32, m: u32, k: u32) -> Left {
    let at = &a_slabs[slab * A_SLAB + a_at(m, k)];
    if A_ALONG_K == 1u {
        return coopLoadT<Left>(at, A_PITCH);
    }
    return coopLoad<Left>(at, A_PITCH);
}
fn right_at(slab: u32, k: u32, n: u32) -> Right {
    let at = &b_slabs[slab * B_SLAB + b_at(k, n)];
    if B_ALONG_K == 1u {
        return coopLoad<Right>(at, B_PITCH);
    }
    return coopLoadT<Right>(at, B_PITCH);
}

// Writes one matrix of each block, which leaves through workgroup memory, at its first row and column in y.
fn write(sum: Sum, tile: Tile, invocation: u32, m: u32, n: u32) {
    let first = invocation / 32u * (TILE * TILE);
    let lane = invocation % 32u;
    let result = &results[first];
    let pitch = TILE;
    workgroupBarrier();
    coopStoreT(sum, result, pitch);
    workgroupBarrier();
    let to_column = y_column(tile, n + lane % TILE);
    for (var i = lane / TILE; i < TILE; i += 32u / TILE) {
        let to = to_column + y_row(tile, m + i);
        if to < NOWHERE {
            y[to] = results[first + i * TILE + lane % TILE];
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let tile = tile_of(workgroup, workgroups);
    var loader = loader_of(tile, invocation);

    let row = invocation / 32u / BLOCKS_N * (4u * TILE);
    let column = invocation / 32u % BLOCKS_N * (2u * TILE);
    var sums: array<array<Sum, 2>, 4>;
    let count = slab_count(tile);
    for (var index = 0u; index < count; index++) {
        // The barrier of the slab before lies between this store and the last reads of the same slab.
        let slab = index % 2u;
        store_slab(&loader, slab);
        // Before the barrier: compilers would move loads between products behind them.
        load_next(tile, &loader, index + 1u == count);
        workgroupBarrier();

        for (var k = 0u; k < TILE_K; k += TILE) {
            let right_0 = right_at(slab, k, column);
            let right_1 = right_at(slab, k, column + TILE);
            for (var i = 0u; i < 4u; i++) {
                let left = left_at(slab, row + i * TILE, k);
                sums[i][0] = coopMultiplyAdd(left, right_0, sums[i][0]);
                sums[i][1] = coopMultiplyAdd(left, right_1, sums[i][1]);
            }
        }
    }

    // In so many words: compilers do not unroll a loop with barriers, and sums that a variable indexes lie in memory, not in
    // registers.
    let m = tile.m + row;
    let n = tile.n + column;
    write(sums[0][0], tile, invocation, m, n);
    write(sums[0][1], tile, invocation, m, n + TILE);
    write(sums[1][0], tile, invocation, m + TILE, n);
    write(sums[1][1], tile, invocation, m + TILE, n + TILE);
    write(sums[2][0], tile, invocation, m + 2u * TILE, n);
    write(sums[2][1], tile, invocation, m + 2u * TILE, n + TILE);
    write(sums[3][0], tile, invocation, m + 3u * TILE, n);
    write(sums[3][1], tile, invocation, m + 3u * TILE, n + TILE);
}
