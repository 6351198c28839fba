// conv2d/kernel on CPU drivers: w̄[k,c,r,s] = Σ_{n,p,q} x[n,c,h,v] · ȳ[n,k,p,q]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// A workgroup is one SIMD vector and owns one window row. Each lane owns MICRO_K output channels, LANES apart, MICRO_C
// input channels and the S taps of that row in registers. x is indexed by workgroup_id and loop counters alone: a
// scalar load and a broadcast, where the driver sees it. Each image is summed apart and then added: two short sums
// round less than one of n·P·Q terms. Workgroups x enumerate input channels, y output channels, group after group, z
// window rows.

const C: u32 = 3u; // of one group
const H: u32 = 32u;
const W: u32 = 32u;
const K: u32 = 64u; // of one group
const R: u32 = 3u;
const S: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;
const GROUPS: u32 = 1u;

const LANES: u32 = 8u;
const MICRO_K: u32 = 4u;
const MICRO_C: u32 = 1u;
const TILE_COLUMNS: u32 = 8u;

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const K_BLOCKS: u32 = (K + LANES * MICRO_K - 1u) / (LANES * MICRO_K);
// The part of an image row that meets the window from a tile of ȳ.
const X_COLUMNS: u32 = (TILE_COLUMNS - 1u) * STRIDE + S;

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [N, GROUPS·C, H, W]
@group(0) @binding(1) var<storage, read> ct_y: array<f32>; // [N, GROUPS·K, P, Q]
@group(0) @binding(2) var<storage, read_write> ct_w: array<f32>; // [GROUPS·K, C, R, S]

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c_0 = workgroup.x * MICRO_C;
    let group = workgroup.y / K_BLOCKS;
    let k_0 = workgroup.y % K_BLOCKS * (LANES * MICRO_K) + lane;
    let r = workgroup.z;

    var sums: array<array<array<f32, MICRO_K>, S>, MICRO_C>;
    for (var image = 0u; image < extents.n; image++) {
        var image_sums: array<array<array<f32, MICRO_K>, S>, MICRO_C>;
        for (var p = 0u; p < P; p++) {
            for (var q_0 = 0u; q_0 < Q; q_0 += TILE_COLUMNS) {
                // Surplus lanes repeat the work of the last channel: a branch would cost all lanes more.
                var ct_y_tile: array<array<f32, MICRO_K>, TILE_COLUMNS>;
                for (var j = 0u; j < TILE_COLUMNS; j++) {
                    let q = min(q_0 + j, Q - 1u);
                    for (var m = 0u; m < MICRO_K; m++) {
                        let k = min(k_0 + m * LANES, K - 1u);
                        let value = ct_y[(((image * GROUPS + group) * K + k) * P + p) * Q + q];
                        ct_y_tile[j][m] = select(0.0, value, q_0 + j < Q);
                    }
                }
                for (var i = 0u; i < MICRO_C; i++) {
                    let c = min(c_0 + i, C - 1u);
                    let h = p * STRIDE + r - PADDING; // wraps round above H where negative
                    var x_row: array<f32, X_COLUMNS>;
                    for (var j = 0u; j < X_COLUMNS; j++) {
                        let v = q_0 * STRIDE + j - PADDING;
                        let value = x[(((image * GROUPS + group) * C + c) * H + min(h, H - 1u)) * W + min(v, W - 1u)];
                        x_row[j] = select(0.0, value, h < H && v < W);
                    }
                    for (var s = 0u; s < S; s++) {
                        for (var j = 0u; j < TILE_COLUMNS; j++) {
                            let value = x_row[j * STRIDE + s];
                            for (var m = 0u; m < MICRO_K; m++) {
                                image_sums[i][s][m] = fma(value, ct_y_tile[j][m], image_sums[i][s][m]);
                            }
                        }
                    }
                }
            }
        }
        for (var i = 0u; i < MICRO_C; i++) {
            for (var s = 0u; s < S; s++) {
                for (var m = 0u; m < MICRO_K; m++) {
                    sums[i][s][m] += image_sums[i][s][m];
                }
            }
        }
    }

    for (var i = 0u; i < MICRO_C; i++) {
        let c = c_0 + i;
        for (var s = 0u; s < S; s++) {
            for (var m = 0u; m < MICRO_K; m++) {
                let k = k_0 + m * LANES;
                if k < K && c < C {
                    ct_w[(((group * K + k) * C + c) * R + r) * S + s] = sums[i][s][m];
                }
            }
        }
    }
}
