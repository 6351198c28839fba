// conv2d/output: y[n,k,p,q] = Σ_{c,r,s} x[n,c,h,v] · w[k,c,r,s]
//     where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// Implicit GEMM on matrix units: M = K channels by N = n·P·Q pixels, over the C channels of one window position after
// another. x and w are rounded to f16 as they are staged; products and sums are f32. A workgroup owns a TILE_M × TILE_N
// tile of y. Each 32 of its invocations, which are one subgroup or several that do the same, own 2 × 2 matrices of it.
// Workgroups (x, y) enumerate tiles of pixels, z tiles of channels.
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
const TILE_K: u32 = 16u; // a multiple of TILE
const BLOCKS_M: u32 = 2u;
const BLOCKS_N: u32 = 2u;

alias StoredX = f32; // or f16
alias StoredW = f32; // or f16
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const TILE_M: u32 = 2u * TILE * BLOCKS_M;
const TILE_N: u32 = 2u * TILE * BLOCKS_N;
const BLOCKS: u32 = BLOCKS_M * BLOCKS_N;
const INVOCATIONS: u32 = 32u * BLOCKS; // a multiple of TILE_N

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<StoredX>; // [N, C, H, W]
@group(0) @binding(1) var<storage, read> w: array<StoredW>; // [K, C, R, S]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [N, K, P, Q]

// Matrices are read in rows of 16 bytes or more, aligned to 16; 8 more halves a row spread them over the memory banks.
const W_PITCH: u32 = TILE_K + 8u;
const X_PITCH: u32 = TILE_N + 8u;
var<workgroup> w_slab: array<f16, TILE_M * W_PITCH>; // [TILE_M, W_PITCH]
var<workgroup> x_slab: array<f16, TILE_K * X_PITCH>; // [TILE_K, X_PITCH]
var<workgroup> results: array<f32, BLOCKS * TILE * TILE>; // a matrix of each block

// The kernel at a window position as the matrix [K, C], zero outside.
fn w_at(channel: u32, c: u32, position: u32) -> f32 {
    if channel >= K || c >= CHANNELS {
        return 0.0;
    }
    return f32(w[(channel * CHANNELS + c) * (R * S) + position]);
}

// Writes the matrix in `results` that the invocation's block has at these channels and pixels.
fn write(invocation: u32, channel_0: u32, pixel_0: u32) {
    let first = invocation / 32u * (TILE * TILE);
    for (var i = invocation % 32u; i < TILE * TILE; i += 32u) {
        let channel = channel_0 + i / TILE;
        let pixel = pixel_0 + i % TILE;
        let image = pixel / (P * Q);
        if image < extents.n && channel < K {
            y[(image * K + channel) * (P * Q) + pixel % (P * Q)] = results[first + i];
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let channel_0 = workgroup.z * TILE_M;
    let pixel_0 = (workgroup.y * workgroups.x + workgroup.x) * TILE_N;
    let block = invocation / 32u;
    let row = block / BLOCKS_N * (2u * TILE);
    let column = block % BLOCKS_N * (2u * TILE);

    // The pixel that the invocation gathers for.
    let pixel = pixel_0 + invocation % TILE_N;
    let image = pixel / (P * Q);
    let h_0 = pixel / Q % P * STRIDE - PADDING; // wraps round above H where negative
    let v_0 = pixel % Q * STRIDE - PADDING;

    var sum_00: Sum;
    var sum_01: Sum;
    var sum_10: Sum;
    var sum_11: Sum;
    for (var position = 0u; position < R * S; position++) {
        let h = h_0 + position / S;
        let v = v_0 + position % S;
        let is_inside = image < extents.n && h < H && v < W;
        for (var c_0 = 0u; c_0 < CHANNELS; c_0 += TILE_K) {
            // Neighbouring invocations read neighbouring pixels of x.
            for (var i = invocation; i < TILE_M * TILE_K; i += INVOCATIONS) {
                let weight = w_at(channel_0 + i / TILE_K, c_0 + i % TILE_K, position);
                w_slab[i / TILE_K * W_PITCH + i % TILE_K] = f16(weight);
            }
            for (var i = invocation / TILE_N; i < TILE_K; i += INVOCATIONS / TILE_N) {
                var value = 0.0;
                if is_inside && c_0 + i < CHANNELS {
                    value = f32(x[((image * CHANNELS + c_0 + i) * H + h) * W + v]);
                }
                x_slab[i * X_PITCH + invocation % TILE_N] = f16(value);
            }
            workgroupBarrier();

            for (var k = 0u; k < TILE_K; k += TILE) {
                let left_0 = coopLoadT<Left>(&w_slab[row * W_PITCH + k], W_PITCH);
                let left_1 = coopLoadT<Left>(&w_slab[(row + TILE) * W_PITCH + k], W_PITCH);
                let right_0 = coopLoadT<Right>(&x_slab[k * X_PITCH + column], X_PITCH);
                let right_1 = coopLoadT<Right>(&x_slab[k * X_PITCH + column + TILE], X_PITCH);
                sum_00 = coopMultiplyAdd(left_0, right_0, sum_00);
                sum_01 = coopMultiplyAdd(left_0, right_1, sum_01);
                sum_10 = coopMultiplyAdd(left_1, right_0, sum_10);
                sum_11 = coopMultiplyAdd(left_1, right_1, sum_11);
            }
            workgroupBarrier();
        }
    }

    // One matrix at a time leaves through workgroup memory. What is stored has to have a name.
    let result = &results[block * (TILE * TILE)];
    let pitch = TILE;
    let result_00 = sum_00;
    coopStoreT(result_00, result, pitch);
    workgroupBarrier();
    write(invocation, channel_0 + row, pixel_0 + column);
    workgroupBarrier();
    let result_01 = sum_01;
    coopStoreT(result_01, result, pitch);
    workgroupBarrier();
    write(invocation, channel_0 + row, pixel_0 + column + TILE);
    workgroupBarrier();
    let result_10 = sum_10;
    coopStoreT(result_10, result, pitch);
    workgroupBarrier();
    write(invocation, channel_0 + row + TILE, pixel_0 + column);
    workgroupBarrier();
    let result_11 = sum_11;
    coopStoreT(result_11, result, pitch);
    workgroupBarrier();
    write(invocation, channel_0 + row + TILE, pixel_0 + column + TILE);
}
