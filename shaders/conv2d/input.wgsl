// conv2d/input: x̄[n,c,h,v] = Σ_{k,r,s} ȳ[n,k,p,q] · w[k,c,r,s]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// A tap meets ȳ where h + PADDING − r is a multiple of STRIDE, so pixels fall into STRIDE² phases, each of which has taps of
// its own: r = h_0 + PADDING − STRIDE·(top − i) for pixel h_0 + STRIDE·f and row p = f + top − i of ȳ. In a phase it is an
// implicit GEMM of M = C channels by N = n·PHASE_H·PHASE_W pixels over the K channels' taps (i, j), by gemm/tile. Where
// there are few channels, those of all phases are rows of one GEMM, over the taps that any phase has.
// A slab has TAPS taps of BLOCK channels; a segment has all channels of these taps, or those that do not fill a slab.
// Workgroups (x, y) enumerate tiles of pixels, phase by phase, and z tiles of rows, group after group.

const CHANNELS: u32 = 3u; // of one group
const H: u32 = 32u;
const W: u32 = 32u;
const K: u32 = 64u; // of one group
const R: u32 = 3u;
const S: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;
const GROUPS: u32 = 1u;

const BLOCK: u32 = 1u; // divides TILE_K
const PHASES: u32 = 1u; // whose channels are rows of one GEMM: 1, or STRIDE² where STRIDE divides H and W
const TRANSPOSED: u32 = 0u; // 1: w is the transpose of the matrix of GROUPS·K·C rows

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const PHASE_H: u32 = (H + STRIDE - 1u) / STRIDE;
const PHASE_W: u32 = (W + STRIDE - 1u) / STRIDE;
const TAPS: u32 = TILE_K / BLOCK;
const ROW_TILES: u32 = (CHANNELS * PHASES + TILE_M - 1u) / TILE_M;
const LAYERS: u32 = STRIDE * STRIDE / PHASES; // of phases
// How far the channels and the taps of A lie apart.
const ROW: u32 = select(R * S, 1u, TRANSPOSED == 1u);
const TAP: u32 = select(1u, GROUPS * K * CHANNELS, TRANSPOSED == 1u);

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> b: array<StoredB>; // ȳ [N, GROUPS·K, P, Q]
@group(0) @binding(1) var<storage, read> a: array<StoredA>; // w [GROUPS·K, C, R, S] or [R, S, GROUPS·K, C]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // x̄ [N, GROUPS·C, H, W]

const A_ALONG_K: u32 = 0u;
const A_IS_WHOLE: bool = CHANNELS % TILE_M == 0u && K % BLOCK == 0u && TAPS == 1u && PHASES == 1u;
const A_HEIGHT: u32 = R;
const A_WIDTH: u32 = S;
const B_ALONG_K: u32 = 0u;
const B_HEIGHT: u32 = P;
const B_WIDTH: u32 = Q;

// The first phase of the rows is that of the pixels (phase_h + STRIDE·f, phase_v + STRIDE·g).
struct Tile {
    m: u32,
    n: u32,
    group: u32,
    phase_h: u32,
    phase_v: u32,
}

fn tile_of(workgroup: vec3<u32>, workgroups: vec3<u32>) -> Tile {
    let m = workgroup.z % ROW_TILES * TILE_M;
    let index = workgroup.y * workgroups.x + workgroup.x;
    let phase = index % LAYERS;
    return Tile(m, index / LAYERS * TILE_N, workgroup.z / ROW_TILES, phase / STRIDE, phase % STRIDE);
}

// The last phase of the rows, from the first in one direction.
fn last(phase: u32) -> u32 {
    return phase + select(0u, STRIDE - 1u, PHASES > 1u);
}
fn top(phase: u32) -> u32 {
    return (last(phase) + PADDING) / STRIDE;
}

// The taps that any of these phases has.
fn taps(phase: u32, window: u32) -> u32 {
    return (window + STRIDE - 1u - (last(phase) + PADDING) % STRIDE + last(0u)) / STRIDE;
}

fn a_row(tile: Tile, m: u32) -> Place {
    let phase = select(m / CHANNELS, 0u, PHASES == 1u);
    let c = select(m % CHANNELS, m, PHASES == 1u);
    let r = tile.phase_h + phase / STRIDE + PADDING - top(tile.phase_h) * STRIDE;
    let s = tile.phase_v + phase % STRIDE + PADDING - top(tile.phase_v) * STRIDE;
    let at = (tile.group * K * CHANNELS + c) * ROW + (r * S + s) * TAP;
    return Place(at, select(NOWHERE, r, m < CHANNELS * PHASES), s);
}

fn b_column(tile: Tile, n: u32) -> Place {
    let image = n / (PHASE_H * PHASE_W);
    let f = n / PHASE_W % PHASE_H;
    let g = n % PHASE_W;
    let is_inside = (image < extents.n) & (tile.phase_h + STRIDE * f < H) & (tile.phase_v + STRIDE * g < W);
    let p = f + top(tile.phase_h);
    let q = g + top(tile.phase_v);
    return Place(((image * GROUPS + tile.group) * K * P + p) * Q + q, select(NOWHERE, p, is_inside), q);
}

fn slab_count(tile: Tile) -> u32 {
    return (K + BLOCK - 1u) / BLOCK * ((taps(tile.phase_h, R) * taps(tile.phase_v, S) + TAPS - 1u) / TAPS);
}

// A segment is its first channel and its first tap.
fn segment_slabs(tile: Tile, segment: vec2<u32>) -> u32 {
    return max((K - segment.x) / BLOCK, 1u);
}

fn segment_after(tile: Tile, segment: vec2<u32>) -> vec2<u32> {
    let channel = segment.x + segment_slabs(tile, segment) * BLOCK;
    return vec2(select(0u, channel, channel < K), segment.y + select(TAPS, 0u, channel < K));
}

fn a_stride() -> u32 {
    return BLOCK * CHANNELS * ROW;
}

fn b_stride() -> u32 {
    return BLOCK * (P * Q);
}

fn depth_at(tile: Tile, segment: vec2<u32>, k: u32) -> Depth {
    let channel = segment.x + k % BLOCK;
    let tap = segment.y + select(k / BLOCK, 0u, TAPS == 1u);
    let columns = taps(tile.phase_v, S);
    let is_inside = (K % BLOCK == 0u || channel < K) & (tap < taps(tile.phase_h, R) * columns);
    let i = tap / max(columns, 1u);
    let j = tap % max(columns, 1u);
    let r = STRIDE * i;
    let s = STRIDE * j;
    let a = Place(channel * CHANNELS * ROW + (r * S + s) * TAP, select(NOWHERE, r, is_inside), s);
    return Depth(a, Place((channel * P - i) * Q - j, select(NOWHERE, 0u - i, is_inside), 0u - j));
}

fn y_row(tile: Tile, m: u32) -> u32 {
    let phase = select(m / CHANNELS, 0u, PHASES == 1u);
    let c = select(m % CHANNELS, m, PHASES == 1u);
    return select(NOWHERE, c * (H * W) + phase / STRIDE * W + phase % STRIDE, m < CHANNELS * PHASES);
}

fn y_column(tile: Tile, n: u32) -> u32 {
    let image = n / (PHASE_H * PHASE_W);
    let h = tile.phase_h + n / PHASE_W % PHASE_H * STRIDE;
    let v = tile.phase_v + n % PHASE_W * STRIDE;
    let is_inside = (image < extents.n) & (h < H) & (v < W);
    return select(NOWHERE, (image * GROUPS + tile.group) * CHANNELS * (H * W) + h * W + v, is_inside);
}

// include gemm/loads
// include gemm/tile
