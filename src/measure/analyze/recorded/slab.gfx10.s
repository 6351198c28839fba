BB0:
	v_mov_b32_e32 v1, 0                                         ; 7e020280
	s_mov_b32 s0, 0                                             ; be800380
BB1:
	s_cmp_ge_u32 s0, s4                                         ; bf090400
	s_cbranch_scc1 BB15                                         ; bf85002e
BB4:
	v_mov_b32_e32 v2, v0                                        ; 7e040300
	s_inst_prefetch 0x2                                         ; bfa00002
BB5:
	s_mov_b64 s[6:7], exec                                      ; be86047e
	v_cmpx_le_u32_e32 0x100, v2                                 ; 7da604ff 00000100
BB6:
	s_andn2_b64 s[6:7], s[6:7], exec                            ; 8a867e06
	s_cbranch_scc0 BB14                                         ; bf840013
BB13:
	s_mov_b64 exec, s[6:7]                                      ; befe0406
	s_mov_b32 s6, s2                                            ; be860302
	s_movk_i32 s7, 0x8000                                       ; b0078000
	s_load_dwordx4 s[8:11], s[6:7], null                        ; f4080203 fa000000
	v_lshl_add_u32 v3, s0, 8, v2                                ; d7460003 04091000
	v_lshlrev_b32_e32 v3, 2, v3                                 ; 34060682
	s_waitcnt lgkmcnt(0)                                        ; bf8cc07f
	buffer_load_dword v3, v3, s[8:11], 0 offen                  ; e0301000 80020303
	v_cmp_gt_u32_e32 vcc, s3, v2                                ; 7d880403
	v_lshlrev_b32_e32 v4, 2, v2                                 ; 34080482
	v_add_nc_u32_e32 v2, 64, v2                                 ; 4a0404c0
	s_waitcnt vmcnt(0)                                          ; bf8c3f70
	v_cndmask_b32_e32 v3, 0, v3, vcc                            ; 02060680
	ds_write_b32 v4, v3                                         ; d8340000 00000304
	s_branch BB5                                                ; bf82ffe8
BB14:
	s_inst_prefetch 0x3                                         ; bfa00003
	s_mov_b64 exec, -1                                          ; befe04c1
	v_mov_b32_e32 v2, 0                                         ; 7e040280
	v_lshlrev_b32_e32 v3, 2, v0                                 ; 34060082
	ds_read2st64_b32 v[4:5], v2 offset1:1                       ; d8e00100 04000002
	ds_read2st64_b32 v[6:7], v3 offset1:1                       ; d8e00100 06000003
	ds_read2st64_b32 v[8:9], v2 offset0:2 offset1:3             ; d8e00302 08000002
	ds_read2st64_b32 v[2:3], v3 offset0:2 offset1:3             ; d8e00302 02000003
	s_add_u32 s0, s0, 1                                         ; 80008100
	s_waitcnt lgkmcnt(2)                                        ; bf8cc27f
	v_fmac_f32_e32 v1, v4, v6                                   ; 56020d04
	v_fmac_f32_e32 v1, v5, v7                                   ; 56020f05
	s_waitcnt lgkmcnt(0)                                        ; bf8cc07f
	v_fmac_f32_e32 v1, v8, v2                                   ; 56020508
	v_fmac_f32_e32 v1, v9, v3                                   ; 56020709
	s_branch BB1                                                ; bf82ffd0
BB15:
	s_movk_i32 s3, 0x8000                                       ; b0038000
	s_load_dwordx4 s[0:3], s[2:3], 0x10                         ; f4080001 fa000010
	v_lshlrev_b32_e32 v0, 2, v0                                 ; 34000082
	s_waitcnt lgkmcnt(0)                                        ; bf8cc07f
	buffer_store_dword v1, v0, s[0:3], 0 offen                  ; e0701000 80000100
	s_endpgm                                                    ; bf810000
