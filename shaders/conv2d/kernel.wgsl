// conv2d/kernel: w̄[k,c,r,s] = Σ_{n,p,q} x[n,c,h,v] · ȳ[n,k,p,q]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// The sum is long and its results are few, so a workgroup shares one sum: its invocations take every INVOCATIONS-th of
// the n·P·Q pixels, and their partial sums are added pairwise in workgroup memory, in an order that does not depend on
// timing. A workgroup owns MICRO_K × MICRO_C channels of w̄ and WINDOW_ROWS of their R window rows, all of them in each
// invocation's registers. Workgroups x enumerate input channels, y output channels, group after group, z window rows.

const C: u32 = 3u; // of one group
const H: u32 = 32u;
const W: u32 = 32u;
const K: u32 = 64u; // of one group
const R: u32 = 3u;
const S: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;
const GROUPS: u32 = 1u;

const INVOCATIONS: u32 = 128u;
const MICRO_K: u32 = 8u;
const MICRO_C: u32 = 1u;
const WINDOW_ROWS: u32 = 3u; // divides R

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const TAPS: u32 = MICRO_C * WINDOW_ROWS * S;
const K_BLOCKS: u32 = (K + MICRO_K - 1u) / MICRO_K;

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [N, GROUPS·C, H, W]
@group(0) @binding(1) var<storage, read> ct_y: array<f32>; // [N, GROUPS·K, P, Q]
@group(0) @binding(2) var<storage, read_write> ct_w: array<f32>; // [GROUPS·K, C, R, S]

var<workgroup> partial_sums: array<array<f32, INVOCATIONS>, TAPS>;

// The image of a group, zero outside: h and v wrap round above H and W where negative.
fn x_at(image: u32, group: u32, channel: u32, h: u32, v: u32) -> f32 {
    if channel >= C || h >= H || v >= W {
        return 0.0;
    }
    return x[(((image * GROUPS + group) * C + channel) * H + h) * W + v];
}

fn ct_y_at(image: u32, group: u32, channel: u32, pixel: u32) -> f32 {
    if channel >= K {
        return 0.0;
    }
    return ct_y[((image * GROUPS + group) * K + channel) * (P * Q) + pixel];
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    let c_0 = workgroup.x * MICRO_C;
    let group = workgroup.y / K_BLOCKS;
    let k_0 = workgroup.y % K_BLOCKS * MICRO_K;
    let r_0 = workgroup.z * WINDOW_ROWS;

    var sums: array<array<f32, TAPS>, MICRO_K>;
    for (var i = invocation; i < extents.n * P * Q; i += INVOCATIONS) {
        let image = i / (P * Q);
        let pixel = i % (P * Q);
        let h_0 = pixel / Q * STRIDE + r_0 - PADDING;
        let v_0 = pixel % Q * STRIDE - PADDING;

        var ct_y_micro: array<f32, MICRO_K>;
        for (var k = 0u; k < MICRO_K; k++) {
            ct_y_micro[k] = ct_y_at(image, group, k_0 + k, pixel);
        }
        for (var tap = 0u; tap < TAPS; tap++) {
            let c = c_0 + tap / (WINDOW_ROWS * S);
            let x_tap = x_at(image, group, c, h_0 + tap / S % WINDOW_ROWS, v_0 + tap % S);
            for (var k = 0u; k < MICRO_K; k++) {
                sums[k][tap] = fma(x_tap, ct_y_micro[k], sums[k][tap]);
            }
        }
    }

    for (var k = 0u; k < MICRO_K; k++) {
        for (var tap = 0u; tap < TAPS; tap++) {
            partial_sums[tap][invocation] = sums[k][tap];
        }
        for (var half = INVOCATIONS / 2u; half > 0u; half /= 2u) {
            workgroupBarrier();
            for (var i = invocation; i < TAPS * half; i += INVOCATIONS) {
                partial_sums[i / half][i % half] += partial_sums[i / half][i % half + half];
            }
        }
        // The invocation that adds up a sum last is the one that writes it.
        for (var tap = invocation; tap < TAPS; tap += INVOCATIONS) {
            let c = c_0 + tap / (WINDOW_ROWS * S);
            let r = r_0 + tap / S % WINDOW_ROWS;
            if k_0 + k < K && c < C {
                ct_w[(((group * K + k_0 + k) * C + c) * R + r) * S + tap % S] = partial_sums[tap][0];
            }
        }
        workgroupBarrier(); // before the next k overwrites the sums
    }
}
