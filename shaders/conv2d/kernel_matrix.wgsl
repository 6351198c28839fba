// conv2d/kernel: w̄[k,c,r,s] = Σ_{n,p,q} x[n,c,h,v] · ȳ[n,k,p,q]
//     where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// Implicit GEMM on matrix units: M = K channels by N = C·R·S taps over n·P·Q pixels. x and ȳ are rounded to f16 as they
// are staged; products and sums are f32. The sum is long and its results are few, so the blocks of a workgroup also share
// one: of each slab of TILE · SHARES pixels a block takes one share, and the shares are added in order at the end. A
// workgroup owns a TILE_M × TILE_N tile of w̄. Each 32 of its invocations, which are one subgroup or several that do the
// same, own a share of 2 × 2 matrices of it. Workgroups x enumerate tiles of taps, y tiles of channels.
enable f16;
enable wgpu_cooperative_matrix;

const CHANNELS: u32 = 3u; // C, which is also what WGSL calls a matrix that is added to
const H: u32 = 32u;
const W: u32 = 32u;
const K: u32 = 64u;
const R: u32 = 3u;
const S: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;

const TILE: u32 = 16u; // side of a matrix; its type's name follows
const BLOCKS_M: u32 = 1u;
const BLOCKS_N: u32 = 1u;
const SHARES: u32 = 4u;

alias StoredX = f32; // or f16
alias StoredY = f32; // or f16
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const TAPS: u32 = CHANNELS * R * S;
const TILE_M: u32 = 2u * TILE * BLOCKS_M;
const TILE_N: u32 = 2u * TILE * BLOCKS_N;
const TILE_K: u32 = TILE * SHARES;
const BLOCKS: u32 = BLOCKS_M * BLOCKS_N * SHARES;
const INVOCATIONS: u32 = 32u * BLOCKS; // a multiple of TILE_K

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<StoredX>; // [N, C, H, W]
@group(0) @binding(1) var<storage, read> ct_y: array<StoredY>; // [N, K, P, Q]
@group(0) @binding(2) var<storage, read_write> ct_w: array<f32>; // [K, C, R, S]

// Matrices are read in rows of 16 bytes or more, aligned to 16; 8 more halves a row spread them over the memory banks.
const PITCH: u32 = TILE_K + 8u;
var<workgroup> ct_y_slab: array<f16, TILE_M * PITCH>; // [TILE_M, PITCH]
var<workgroup> x_slab: array<f16, TILE_N * PITCH>; // [TILE_N, PITCH], the transpose of the right factor
var<workgroup> results: array<f32, BLOCKS * TILE * TILE>; // a matrix of each block

// Writes the matrix whose shares `results` has at these channels and taps: the block of each share writes its part of it.
fn write(invocation: u32, channel_0: u32, tap_0: u32) {
    let block = invocation / 32u;
    let first = block / SHARES * (SHARES * TILE * TILE);
    for (var i = block % SHARES * 32u + invocation % 32u; i < TILE * TILE; i += 32u * SHARES) {
        var sum = results[first + i];
        for (var share = 1u; share < SHARES; share++) {
            sum += results[first + share * (TILE * TILE) + i];
        }
        let channel = channel_0 + i / TILE;
        let tap = tap_0 + i % TILE;
        if channel < K && tap < TAPS {
            ct_w[channel * TAPS + tap] = sum;
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    let channel_0 = workgroup.y * TILE_M;
    let tap_0 = workgroup.x * TILE_N;
    let block = invocation / 32u;
    let row = block / SHARES / BLOCKS_N * (2u * TILE);
    let column = block / SHARES % BLOCKS_N * (2u * TILE);
    let share = block % SHARES * TILE;

    var sum_00: Sum;
    var sum_01: Sum;
    var sum_10: Sum;
    var sum_11: Sum;
    for (var pixel_0 = 0u; pixel_0 < extents.n * P * Q; pixel_0 += TILE_K) {
        // The pixel that the invocation gathers for: neighbouring invocations read neighbouring pixels.
        let pixel = pixel_0 + invocation % TILE_K;
        let image = pixel / (P * Q);
        let at = pixel % (P * Q);
        let h_0 = at / Q * STRIDE - PADDING; // wraps round above H where negative
        let v_0 = at % Q * STRIDE - PADDING;
        for (var i = invocation / TILE_K; i < TILE_M; i += INVOCATIONS / TILE_K) {
            var value = 0.0;
            if image < extents.n && channel_0 + i < K {
                value = f32(ct_y[(image * K + channel_0 + i) * (P * Q) + at]);
            }
            ct_y_slab[i * PITCH + invocation % TILE_K] = f16(value);
        }
        for (var i = invocation / TILE_K; i < TILE_N; i += INVOCATIONS / TILE_K) {
            let tap = tap_0 + i;
            let h = h_0 + tap / S % R;
            let v = v_0 + tap % S;
            var value = 0.0;
            if image < extents.n && tap < TAPS && h < H && v < W {
                value = f32(x[((image * CHANNELS + tap / (R * S)) * H + h) * W + v]);
            }
            x_slab[i * PITCH + invocation % TILE_K] = f16(value);
        }
        workgroupBarrier();

        let left_0 = coopLoadT<Left>(&ct_y_slab[row * PITCH + share], PITCH);
        let left_1 = coopLoadT<Left>(&ct_y_slab[(row + TILE) * PITCH + share], PITCH);
        let right_0 = coopLoad<Right>(&x_slab[column * PITCH + share], PITCH);
        let right_1 = coopLoad<Right>(&x_slab[(column + TILE) * PITCH + share], PITCH);
        sum_00 = coopMultiplyAdd(left_0, right_0, sum_00);
        sum_01 = coopMultiplyAdd(left_0, right_1, sum_01);
        sum_10 = coopMultiplyAdd(left_1, right_0, sum_10);
        sum_11 = coopMultiplyAdd(left_1, right_1, sum_11);
        workgroupBarrier();
    }

    // One matrix at a time leaves through workgroup memory. What is stored has to have a name.
    let result = &results[block * (TILE * TILE)];
    let pitch = TILE;
    let result_00 = sum_00;
    coopStoreT(result_00, result, pitch);
    workgroupBarrier();
    write(invocation, channel_0 + row, tap_0 + column);
    workgroupBarrier();
    let result_01 = sum_01;
    coopStoreT(result_01, result, pitch);
    workgroupBarrier();
    write(invocation, channel_0 + row, tap_0 + column + TILE);
    workgroupBarrier();
    let result_10 = sum_10;
    coopStoreT(result_10, result, pitch);
    workgroupBarrier();
    write(invocation, channel_0 + row + TILE, tap_0 + column);
    workgroupBarrier();
    let result_11 = sum_11;
    coopStoreT(result_11, result, pitch);
    workgroupBarrier();
    write(invocation, channel_0 + row + TILE, tap_0 + column + TILE);
}
