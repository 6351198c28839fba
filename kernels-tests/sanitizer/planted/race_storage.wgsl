// A neighbour's element of a storage buffer: a workgroupBarrier does not order those.
// dispatch: 1 | 64 128
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    y[lane] = x[lane];
    workgroupBarrier(); // sound: storageBarrier();
    y[64u + lane] = y[63u - lane]; // reports: race
}
