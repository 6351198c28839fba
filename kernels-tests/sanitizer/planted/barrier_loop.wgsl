// A loop whose length depends on the invocation.
// dispatch: 1 | 64 64
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> row: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    row[lane] = 0.0;
    for (var k = 0u; k < 1u + lane / 32u; k += 1u) { // sound: for (var k = 0u; k < 2u; k += 1u) {
        workgroupBarrier(); // reports: barrier
        row[lane] += x[lane];
    }
    y[lane] = row[lane];
}
