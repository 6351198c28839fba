// matmul/product: z[m,n] = Σ_k A(m,k) · B(k,n), by gemm/tile
//
// One segment has all whole slabs, another what is left of the depth. Workgroups x enumerate tiles along N, y along M.

const TRANSPOSE_A: u32 = 0u; // 1: a holds Aᵀ
const TRANSPOSE_B: u32 = 0u; // 1: b holds Bᵀ

struct Extents {
    m: u32,
    n: u32,
    k: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> a: array<StoredA>; // [M, K] or [K, M]
@group(0) @binding(1) var<storage, read> b: array<StoredB>; // [K, N] or [N, K]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // z [M, N]

const A_ALONG_K: u32 = 1u - TRANSPOSE_A;
const A_IS_WHOLE: bool = false;
const B_ALONG_K: u32 = TRANSPOSE_B;
// Each element is a plane of its own.
const A_HEIGHT: u32 = 1u;
const A_WIDTH: u32 = 1u;
const B_HEIGHT: u32 = 1u;
const B_WIDTH: u32 = 1u;

struct Tile {
    m: u32,
    n: u32,
}

fn tile_of(workgroup: vec3<u32>, workgroups: vec3<u32>) -> Tile {
    return Tile(workgroup.y * TILE_M, workgroup.x * TILE_N);
}

fn a_row(tile: Tile, m: u32) -> Place {
    return Place(select(m * extents.k, m, TRANSPOSE_A == 1u), select(NOWHERE, 0u, m < extents.m), 0u);
}

fn b_column(tile: Tile, n: u32) -> Place {
    return Place(select(n, n * extents.k, TRANSPOSE_B == 1u), select(NOWHERE, 0u, n < extents.n), 0u);
}

fn slab_count(tile: Tile) -> u32 {
    return (extents.k + TILE_K - 1u) / TILE_K;
}

// A segment is its first k.
fn segment_slabs(tile: Tile, segment: vec2<u32>) -> u32 {
    return max((extents.k - segment.x) / TILE_K, 1u);
}

fn segment_after(tile: Tile, segment: vec2<u32>) -> vec2<u32> {
    return vec2(segment.x + segment_slabs(tile, segment) * TILE_K, 0u);
}

// How far the depths of A and of B lie apart.
fn a_term() -> u32 {
    return select(1u, extents.m, TRANSPOSE_A == 1u);
}
fn b_term() -> u32 {
    return select(extents.n, 1u, TRANSPOSE_B == 1u);
}

fn a_stride() -> u32 {
    return TILE_K * a_term();
}

fn b_stride() -> u32 {
    return TILE_K * b_term();
}

fn depth_at(tile: Tile, segment: vec2<u32>, k: u32) -> Depth {
    let at = segment.x + k;
    let h = select(NOWHERE, 0u, at < extents.k);
    return Depth(Place(at * a_term(), h, 0u), Place(at * b_term(), h, 0u));
}

fn y_row(tile: Tile, m: u32) -> u32 {
    return select(NOWHERE, m * extents.n, m < extents.m);
}

fn y_column(tile: Tile, n: u32) -> u32 {
    return select(NOWHERE, n, n < extents.n);
}

// include gemm/loads
// include gemm/tile
