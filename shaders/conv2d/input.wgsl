// conv2d/input: x̄[n,c,h,v] = Σ_{k,r,s} ȳ[n,k,p,q] · w[k,c,r,s]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// A tap meets ȳ where h + PADDING − r is a multiple of STRIDE, so pixels fall into STRIDE² phases, each of which has taps of
// its own: r = r_0 + STRIDE·i. In a phase it is an implicit GEMM of M = C channels by N = n·PHASE_H·PHASE_W pixels over the
// K channels' taps (i, j), by gemm/tile. A slab has TAPS taps of BLOCK channels; where BLOCK = TILE_K, its one tap is the
// same in all invocations, and so is the arithmetic of its address. Workgroups (x, y) enumerate tiles of pixels, phase by
// phase, and z tiles of channels, group after group.

const C: u32 = 3u; // of one group
const H: u32 = 32u;
const W: u32 = 32u;
const K: u32 = 64u; // of one group
const R: u32 = 3u;
const S: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;
const GROUPS: u32 = 1u;

const BLOCK: u32 = 1u; // divides TILE_K

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const PHASE_H: u32 = (H + STRIDE - 1u) / STRIDE;
const PHASE_W: u32 = (W + STRIDE - 1u) / STRIDE;
const TAPS: u32 = TILE_K / BLOCK;
const CHANNEL_TILES: u32 = (C + TILE_M - 1u) / TILE_M;

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> b: array<f32>; // ȳ [N, GROUPS·K, P, Q]
@group(0) @binding(1) var<storage, read> a: array<f32>; // w [GROUPS·K, C, R, S]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // x̄ [N, GROUPS·C, H, W]

const A_ALONG_K: u32 = 0u;
const A_IS_WHOLE: bool = C % TILE_M == 0u && K % BLOCK == 0u && TAPS == 1u;
const B_ALONG_K: u32 = 0u;
const B_HEIGHT: u32 = P;
const B_WIDTH: u32 = Q;

// The phase is that of the pixels (phase_h + STRIDE·f, phase_v + STRIDE·g).
struct Tile {
    m: u32,
    n: u32,
    group: u32,
    phase_h: u32,
    phase_v: u32,
}

fn tile_of(workgroup: vec3<u32>, workgroups: vec3<u32>) -> Tile {
    let m = workgroup.z % CHANNEL_TILES * TILE_M;
    let index = workgroup.y * workgroups.x + workgroup.x;
    let phase = index % (STRIDE * STRIDE);
    return Tile(m, index / (STRIDE * STRIDE) * TILE_N, workgroup.z / CHANNEL_TILES, phase / STRIDE, phase % STRIDE);
}

// The first tap of the phase, and how many there are.
fn first_tap(phase: u32) -> u32 {
    return (phase + PADDING) % STRIDE;
}
fn taps(phase: u32, window: u32) -> u32 {
    return (window + STRIDE - 1u - first_tap(phase)) / STRIDE;
}

fn a_row(tile: Tile, m: u32) -> u32 {
    return select(NOWHERE, (tile.group * K * C + m) * (R * S), m < C);
}

// Tap i of pixel f of the phase meets row p = f + (phase_h + PADDING) / STRIDE − i.
fn b_column(tile: Tile, n: u32) -> Column {
    let image = n / (PHASE_H * PHASE_W);
    let f = n / PHASE_W % PHASE_H;
    let g = n % PHASE_W;
    let is_inside = (image < extents.n) & (tile.phase_h + STRIDE * f < H) & (tile.phase_v + STRIDE * g < W);
    let p = f + (tile.phase_h + PADDING) / STRIDE;
    let q = g + (tile.phase_v + PADDING) / STRIDE;
    return Column(((image * GROUPS + tile.group) * K * P + p) * Q + q, select(NOWHERE, p, is_inside), q);
}

fn slab_count(tile: Tile) -> u32 {
    return (K + BLOCK - 1u) / BLOCK * ((taps(tile.phase_h, R) * taps(tile.phase_v, S) + TAPS - 1u) / TAPS);
}

// A slab is its first channel and its first tap.
fn slab_after(tile: Tile, slab: vec2<u32>) -> vec2<u32> {
    let tap = slab.y + TAPS;
    let is_last = tap >= taps(tile.phase_h, R) * taps(tile.phase_v, S);
    return select(vec2(slab.x, tap), vec2(slab.x + BLOCK, 0u), is_last);
}

fn depth_at(tile: Tile, slab: vec2<u32>, k: u32) -> Depth {
    let channel = slab.x + k % BLOCK;
    let tap = slab.y + select(k / BLOCK, 0u, TAPS == 1u);
    let columns = taps(tile.phase_v, S);
    let is_inside = select(channel < K, slab.x < K, K % BLOCK == 0u) & (tap < taps(tile.phase_h, R) * columns);
    let i = tap / max(columns, 1u);
    let j = tap % max(columns, 1u);
    let r = first_tap(tile.phase_h) + STRIDE * i;
    let s = first_tap(tile.phase_v) + STRIDE * j;
    let at = (channel * C * R + r) * S + s;
    return Depth(select(NOWHERE, at, is_inside), (channel * P - i) * Q - j, select(NOWHERE, 0u - i, is_inside), 0u - j);
}

fn y_row(tile: Tile, m: u32) -> u32 {
    return select(NOWHERE, m * (H * W), m < C);
}

fn y_column(tile: Tile, n: u32) -> u32 {
    let image = n / (PHASE_H * PHASE_W);
    let h = tile.phase_h + n / PHASE_W % PHASE_H * STRIDE;
    let v = tile.phase_v + n % PHASE_W * STRIDE;
    let is_inside = (image < extents.n) & (h < H) & (v < W);
    return select(NOWHERE, (image * GROUPS + tile.group) * C * (H * W) + h * W + v, is_inside);
}

// include gemm/tile
