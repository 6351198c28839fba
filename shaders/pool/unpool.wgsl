// pool/unpool: x̄[n, c, h, w] = Σ_{p, q} ȳ[n, c, p, q] where index[n, c, p, q] = h·W + w
//
// An invocation computes one pixel: it searches the windows that contain it, row by row.
struct Extents {
    h: u32,
    w: u32,
    p: u32,
    q: u32,
    r: u32,
    s: u32,
    stride: u32,
    padding: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> ct_y: array<f32>;         // [N·C, P, Q]
@group(0) @binding(1) var<storage, read> index: array<f32>;        // [N·C, P, Q]
@group(0) @binding(2) var<storage, read_write> ct_x: array<f32>;   // [N·C, H, W]

// First window of `extent` pixels that contains position `place` on the padded axis.
fn first(place: u32, extent: u32) -> u32 {
    if place < extent {
        return 0u;
    }
    return (place - extent) / extents.stride + 1u;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (workgroup.y * grid.x + workgroup.x) * 64u + lane;
    if i >= arrayLength(&ct_x) {
        return;
    }
    let pixels = extents.h * extents.w;
    let plane = i / pixels * extents.p * extents.q;
    let row = i % pixels / extents.w + extents.padding;
    let column = i % extents.w + extents.padding;
    let p_end = min(row / extents.stride + 1u, extents.p);
    let q_end = min(column / extents.stride + 1u, extents.q);
    var sum = 0.0;
    for (var p = first(row, extents.r); p < p_end; p += 1u) {
        for (var q = first(column, extents.s); q < q_end; q += 1u) {
            let at = plane + p * extents.q + q;
            if u32(index[at]) == i % pixels {
                sum += ct_y[at];
            }
        }
    }
    ct_x[i] = sum;
}
