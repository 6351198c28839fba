// conv2d/input: x̄[n,c,h,v] = Σ_{k,r,s} ȳ[n,k,p,q] · w[k,c,r,s]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// Implicit GEMM of M = C channels by N = n·H·W pixels over K·R·S taps; a tap meets no ȳ where h + PADDING − r is not a
// multiple of STRIDE. A workgroup owns a TILE_M × TILE_N tile of x̄, an invocation MICRO_M × MICRO_N of it. Each slab
// of TILE_K taps of w and of ȳ, gathered on the way, passes through workgroup memory once. Workgroups (x, y) enumerate
// tiles of pixels, z tiles of channels, group after group.

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
const TAPS: u32 = K * R * S;
const CHANNEL_TILES: u32 = (C + TILE_M - 1u) / TILE_M;
const COLUMNS: u32 = TILE_N / MICRO_N;
const INVOCATIONS: u32 = TILE_M / MICRO_M * COLUMNS;

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> ct_y: array<f32>; // [N, GROUPS·K, P, Q]
@group(0) @binding(1) var<storage, read> w: array<f32>; // [GROUPS·K, C, R, S]
@group(0) @binding(2) var<storage, read_write> ct_x: array<f32>; // [N, GROUPS·C, H, W]

var<workgroup> w_slab: array<f32, TILE_K * TILE_M>; // [TILE_K, TILE_M]
var<workgroup> ct_y_slab: array<f32, TILE_K * TILE_N>; // [TILE_K, TILE_N]

// The kernel of a group as the matrix [C, TAPS], zero outside.
fn w_at(group: u32, channel: u32, tap: u32) -> f32 {
    if channel >= C || tap >= TAPS {
        return 0.0;
    }
    return w[((group * K + tap / (R * S)) * C + channel) * (R * S) + tap % (R * S)];
}

// The cotangent of a group's output as the matrix [TAPS, N·H·W], zero outside and where a tap meets no output.
fn ct_y_at(group: u32, tap: u32, pixel: u32) -> f32 {
    let image = pixel / (H * W);
    let h = pixel / W % H + PADDING - tap / S % R; // wraps round above P·STRIDE where negative
    let v = pixel % W + PADDING - tap % S;
    let p = h / STRIDE;
    let q = v / STRIDE;
    if image >= extents.n || tap >= TAPS || p >= P || q >= Q || p * STRIDE != h || q * STRIDE != v {
        return 0.0;
    }
    return ct_y[(((image * GROUPS + group) * K + tap / (R * S)) * P + p) * Q + q];
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
        // Neighbouring invocations read neighbouring addresses: along taps of w, along pixels of ȳ.
        for (var i = invocation; i < TILE_M * TILE_K; i += INVOCATIONS) {
            w_slab[i % TILE_K * TILE_M + i / TILE_K] = w_at(group, channel_0 + i / TILE_K, tap_0 + i % TILE_K);
        }
        for (var i = invocation; i < TILE_K * TILE_N; i += INVOCATIONS) {
            ct_y_slab[i] = ct_y_at(group, tap_0 + i / TILE_N, pixel_0 + i % TILE_N);
        }
        workgroupBarrier();

        for (var tap = 0u; tap < TILE_K; tap++) {
            var ct_y_micro: array<f32, MICRO_N>;
            for (var j = 0u; j < MICRO_N; j++) {
                ct_y_micro[j] = ct_y_slab[tap * TILE_N + j * COLUMNS + column];
            }
            for (var i = 0u; i < MICRO_M; i++) {
                let w_micro = w_slab[tap * TILE_M + row * MICRO_M + i];
                for (var j = 0u; j < MICRO_N; j++) {
                    sums[i][j] = fma(w_micro, ct_y_micro[j], sums[i][j]);
                }
            }
        }
        workgroupBarrier();
    }

    for (var j = 0u; j < MICRO_N; j++) {
        let pixel = pixel_0 + j * COLUMNS + column;
        let image = pixel / (H * W);
        for (var i = 0u; i < MICRO_M; i++) {
            let channel = channel_0 + row * MICRO_M + i;
            if image < extents.n && channel < C {
                ct_x[((image * GROUPS + group) * C + channel) * (H * W) + pixel % (H * W)] = sums[i][j];
            }
        }
    }
}
