// The last invocation reads a neighbour that is not there.
// dispatch: 1 | 64 64
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> row: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    row[lane] = x[lane];
    workgroupBarrier();
    let right = lane + 1u; // sound: let right = min(lane + 1u, 63u);
    y[lane] = row[right] - row[lane]; // reports: out-of-bounds
}
