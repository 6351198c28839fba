// conv2d/kernel: w̄[k,c,r,s] = Σ_{n,p,q} x[n,c,h,v] · ȳ[n,k,p,q]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// Implicit GEMM of M = K channels by N = C·R·S taps over n·P·Q pixels, by gemm/tile. The sum is long and its results are
// few, so the images may fall into runs, each with a sum of its own. A slab has PIXELS pixels of BLOCK images; a segment has
// these pixels of up to SLABS times as many images: a pixel inside of x in one image is so in all. Workgroups x enumerate
// tiles of taps, y tiles of channels, z groups, run after run.

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
const SLABS: u32 = 8u;

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const PIXELS: u32 = TILE_K / BLOCK;

struct Extents {
    n: u32,
    run: u32, // images of a run; the last may have fewer
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> b: array<StoredB>; // x [N, GROUPS·C, H, W]
@group(0) @binding(1) var<storage, read> a: array<StoredA>; // ȳ [N, GROUPS·K, P, Q]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // w̄ [runs, GROUPS·K, C, R, S]

const A_ALONG_K: u32 = 1u;
const A_IS_WHOLE: bool = K % TILE_M == 0u && (P * Q) % PIXELS == 0u && BLOCK == 1u;
const A_HEIGHT: u32 = 1u;
const A_WIDTH: u32 = 1u;
const B_ALONG_K: u32 = 1u;
const B_HEIGHT: u32 = H;
const B_WIDTH: u32 = W;

struct Tile {
    m: u32,
    n: u32,
    group: u32,
    run: u32,
}

fn tile_of(workgroup: vec3<u32>, workgroups: vec3<u32>) -> Tile {
    return Tile(workgroup.y * TILE_M, workgroup.x * TILE_N, workgroup.z % GROUPS, workgroup.z / GROUPS);
}

// The images of the run.
fn images(tile: Tile) -> u32 {
    return min(extents.run, extents.n - tile.run * extents.run);
}

fn a_row(tile: Tile, m: u32) -> Place {
    return Place((tile.group * K + m) * (P * Q), select(NOWHERE, 0u, m < K), 0u);
}

fn b_column(tile: Tile, n: u32) -> Place {
    let c = n / (R * S);
    let h = n / S % R - PADDING;
    let v = n % S - PADDING;
    return Place(((tile.group * CHANNELS + c) * H + h) * W + v, select(NOWHERE, h, c < CHANNELS), v);
}

fn slab_count(tile: Tile) -> u32 {
    return (images(tile) + BLOCK - 1u) / BLOCK * ((P * Q + PIXELS - 1u) / PIXELS);
}

// A segment is its first image in the run and its first pixel.
fn segment_slabs(tile: Tile, segment: vec2<u32>) -> u32 {
    return clamp((images(tile) - segment.x) / BLOCK, 1u, SLABS);
}

fn segment_after(tile: Tile, segment: vec2<u32>) -> vec2<u32> {
    let pixel = segment.y + PIXELS;
    let image = segment.x + segment_slabs(tile, segment) * BLOCK;
    return vec2(select(image, segment.x, pixel < P * Q), select(0u, pixel, pixel < P * Q));
}

fn a_stride() -> u32 {
    return BLOCK * (GROUPS * K * P * Q);
}

fn b_stride() -> u32 {
    return BLOCK * (GROUPS * CHANNELS * H * W);
}

fn depth_at(tile: Tile, segment: vec2<u32>, k: u32) -> Depth {
    let pixel = segment.y + k % PIXELS;
    let image = segment.x + k / PIXELS;
    let is_inside = ((P * Q) % PIXELS == 0u || pixel < P * Q) & (BLOCK == 1u || image < images(tile));
    let h = pixel / Q * STRIDE;
    let v = pixel % Q * STRIDE;
    let first = (tile.run * extents.run + image) * GROUPS;
    let a = Place(first * (K * P * Q) + pixel, select(NOWHERE, 0u, is_inside), 0u);
    return Depth(a, Place((first * (CHANNELS * H) + h) * W + v, select(NOWHERE, h, is_inside), v));
}

fn y_row(tile: Tile, m: u32) -> u32 {
    return select(NOWHERE, ((tile.run * GROUPS + tile.group) * K + m) * (CHANNELS * R * S), m < K);
}

fn y_column(tile: Tile, n: u32) -> u32 {
    return select(NOWHERE, n, n < CHANNELS * R * S);
}

// include gemm/loads
// include gemm/tile
