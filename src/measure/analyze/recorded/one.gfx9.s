BB0:
	v_lshl_add_u32 v0, s4, 6, v0                                ; d1fd0000 04010c04
	v_mov_b32_e32 v1, 0                                         ; 7e020280
	s_mov_b32 s0, 0                                             ; be800080
BB1:
	s_cmp_ge_u32 s0, s3                                         ; bf090300
	s_cbranch_scc1 BB5                                          ; bf85000f
BB4:
	s_mov_b32 s4, s2                                            ; be840002
	s_movk_i32 s5, 0x8000                                       ; b0058000
	s_load_dwordx4 s[4:7], s[4:5], 0x10                         ; c00a0102 00000010
	v_lshl_add_u32 v2, s0, 10, v0                               ; d1fd0002 04011400
	v_lshlrev_b32_e32 v2, 2, v2                                 ; 24040482
	s_waitcnt lgkmcnt(0)                                        ; bf8cc07f
	buffer_load_dword v2, v2, s[4:7], 0 offen                   ; e0501000 80010202
	v_cvt_f32_u32_e32 v3, s0                                    ; 7e060c00
	s_add_u32 s0, s0, 1                                         ; 80008100
	s_waitcnt vmcnt(0)                                          ; bf8c3f70
	v_mac_f32_e32 v1, v2, v3                                    ; 2c020702
	s_branch BB1                                                ; bf82ffef
BB5:
	s_movk_i32 s3, 0x8000                                       ; b0038000
	s_load_dwordx4 s[0:3], s[2:3], 0x20                         ; c00a0001 00000020
	v_lshlrev_b32_e32 v0, 2, v0                                 ; 24000082
	s_waitcnt lgkmcnt(0)                                        ; bf8cc07f
	buffer_store_dword v1, v0, s[0:3], 0 offen                  ; e0701000 80000100
	s_endpgm                                                    ; bf810000
