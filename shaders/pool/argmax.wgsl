// pool/argmax: y[n, c, p, q] = h·W + w of the largest x[n, c, h, w] in the window, the first of equals
//                              where h = p·STRIDE + r − PADDING, w = q·STRIDE + s − PADDING
//
// An invocation searches one window. Padding does not take part. A NaN counts as the largest.
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

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [N·C, H, W]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [N·C, P, Q]

// Tests the bits: compilers may assume that no number is NaN and fold a comparison.
fn is_nan(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (workgroup.y * grid.x + workgroup.x) * 64u + lane;
    if i >= arrayLength(&y) {
        return;
    }
    let plane = i / (extents.p * extents.q) * extents.h * extents.w;
    let top = i / extents.q % extents.p * extents.stride;
    let left = i % extents.q * extents.stride;
    // The part of the window inside the image.
    let h_0 = max(top, extents.padding) - extents.padding;
    let w_0 = max(left, extents.padding) - extents.padding;
    let h_end = min(top + extents.r - extents.padding, extents.h);
    let w_end = min(left + extents.s - extents.padding, extents.w);
    var at = h_0 * extents.w + w_0;
    for (var h = h_0; h < h_end; h += 1u) {
        for (var w = w_0; w < w_end; w += 1u) {
            let other = h * extents.w + w;
            let largest = x[plane + at];
            let value = x[plane + other];
            if value > largest || (is_nan(value) && !is_nan(largest)) {
                at = other;
            }
        }
    }
    y[i] = f32(at);
}
