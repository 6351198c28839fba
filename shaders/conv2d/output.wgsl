// conv2d/output: y[n,k,p,q] = Σ_{c,r,s} x[n,c,h,v] · w[k,c,r,s]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// Implicit GEMM of M = K channels by N = n·P·Q pixels over C·R·S taps. A workgroup owns a TILE_M × TILE_N tile of y, an
// invocation MICRO_M × MICRO_N of it. Each slab of TILE_K taps of w and of x, gathered on the way, passes through
// workgroup memory once. Workgroups (x, y) enumerate tiles of pixels, z tiles of channels, group after group.

const C: u32 = 3u; // of one group
const H: u32 = 32u;
const W: u32 = 32u;
const K: u32 = 64u; // of one group
const R: u32 = 3u;
const S: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;
const GROUPS: u32 = 1u;

const TILE_M: u32 = 64u;
const TILE_N: u32 = 64u;
const TILE_K: u32 = 16u;
const MICRO_M: u32 = 4u;
const MICRO_N: u32 = 4u;

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const TAPS: u32 = C * R * S;
const CHANNEL_TILES: u32 = (K + TILE_M - 1u) / TILE_M;
const COLUMNS: u32 = TILE_N / MICRO_N;
const INVOCATIONS: u32 = TILE_M / MICRO_M * COLUMNS;

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [N, GROUPS·C, H, W]
@group(0) @binding(1) var<storage, read> w: array<f32>; // [GROUPS·K, C, R, S]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [N, GROUPS·K, P, Q]

var<workgroup> w_slab: array<f32, TILE_K * TILE_M>; // [TILE_K, TILE_M]
var<workgroup> x_slab: array<f32, TILE_K * TILE_N>; // [TILE_K, TILE_N]

// The kernel of a group as the matrix [K, TAPS], zero outside.
fn w_at(group: u32, channel: u32, tap: u32) -> f32 {
    if channel >= K || tap >= TAPS {
        return 0.0;
    }
    return w[(group * K + channel) * TAPS + tap];
}

// The image of a group as the matrix [TAPS, N·P·Q], zero outside and in the padding.
fn x_at(group: u32, tap: u32, pixel: u32) -> f32 {
    let image = pixel / (P * Q);
    let h = pixel / Q % P * STRIDE + tap / S % R - PADDING; // wraps round above H where negative
    let v = pixel % Q * STRIDE + tap % S - PADDING;
    if image >= extents.n || tap >= TAPS || h >= H || v >= W {
        return 0.0;
    }
    return x[(((image * GROUPS + group) * C + tap / (R * S)) * H + h) * W + v];
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let group = workgroup.z / CHANNEL_TILES;
    let channel_0 = workgroup.z % CHANNEL_TILES * TILE_M;
    let pixel_0 = (workgroup.y * workgroups.x + workgroup.x) * TILE_N;
    let row = invocation / COLUMNS;
    let column = invocation % COLUMNS;

    var sums: array<array<f32, MICRO_N>, MICRO_M>;
    for (var tap_0 = 0u; tap_0 < TAPS; tap_0 += TILE_K) {
        // Neighbouring invocations read neighbouring addresses: along taps of w, along pixels of x.
        for (var i = invocation; i < TILE_M * TILE_K; i += INVOCATIONS) {
            w_slab[i % TILE_K * TILE_M + i / TILE_K] = w_at(group, channel_0 + i / TILE_K, tap_0 + i % TILE_K);
        }
        for (var i = invocation; i < TILE_K * TILE_N; i += INVOCATIONS) {
            x_slab[i] = x_at(group, tap_0 + i / TILE_N, pixel_0 + i % TILE_N);
        }
        workgroupBarrier();

        for (var tap = 0u; tap < TILE_K; tap++) {
            var x_micro: array<f32, MICRO_N>;
            for (var j = 0u; j < MICRO_N; j++) {
                x_micro[j] = x_slab[tap * TILE_N + j * COLUMNS + column];
            }
            for (var i = 0u; i < MICRO_M; i++) {
                let w_micro = w_slab[tap * TILE_M + row * MICRO_M + i];
                for (var j = 0u; j < MICRO_N; j++) {
                    sums[i][j] = fma(w_micro, x_micro[j], sums[i][j]);
                }
            }
        }
        workgroupBarrier();
    }

    for (var j = 0u; j < MICRO_N; j++) {
        let pixel = pixel_0 + j * COLUMNS + column;
        let image = pixel / (P * Q);
        for (var i = 0u; i < MICRO_M; i++) {
            let channel = channel_0 + row * MICRO_M + i;
            if image < extents.n && channel < K {
                y[((image * GROUPS + group) * K + channel) * (P * Q) + pixel % (P * Q)] = sums[i][j];
            }
        }
    }
}
