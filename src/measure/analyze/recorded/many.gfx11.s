BB0:
	s_mov_b32 s0, s3                                            ; be800003
	s_movk_i32 s3, 0x8000                                       ; b0038000
	s_load_b128 s[4:7], s[2:3], null                            ; f4080101 f8000000
	v_mov_b32_e32 v1, 0                                         ; 7e020280
	v_mov_b32_e32 v2, 0                                         ; 7e040280
	v_mov_b32_e32 v3, 0                                         ; 7e060280
	v_mov_b32_e32 v4, 0                                         ; 7e080280
	v_lshl_add_u32 v0, s0, 6, v0                                ; d6460000 04010c00
	s_mov_b32 s0, 0                                             ; be800080
	s_set_inst_prefetch_distance 0x1                            ; bf840001
BB1:
	s_delay_alu instid0(VALU_DEP_1) | instid1(SALU_CYCLE_1)     ; bf870481
	v_lshl_add_u32 v5, s0, 10, v0                               ; d6460005 04011400
	s_delay_alu instid0(VALU_DEP_1) | instskip(NEXT) | instid1(VALU_DEP_1) ; bf870091
	v_lshlrev_b32_e32 v5, 2, v5                                 ; 300a0a82
	v_add_nc_u32_e32 v6, 0x1000, v5                             ; 4a0c0aff 00001000
	v_add_nc_u32_e32 v7, 0x2000, v5                             ; 4a0e0aff 00002000
	s_waitcnt lgkmcnt(0)                                        ; bf89fc07
	s_clause 0x2                                                ; bf850002
	buffer_load_b32 v8, v5, s[4:7], 0 offen                     ; e0500000 80410805
	buffer_load_b32 v6, v6, s[4:7], 0 offen                     ; e0500000 80410606
	buffer_load_b32 v7, v7, s[4:7], 0 offen                     ; e0500000 80410707
	v_add_nc_u32_e32 v5, 0x3000, v5                             ; 4a0a0aff 00003000
	buffer_load_b32 v5, v5, s[4:7], 0 offen                     ; e0500000 80410505
	v_cvt_f32_u32_e32 v9, s0                                    ; 7e120c00
	s_add_u32 s0, s0, 4                                         ; 80008400
	s_delay_alu instid0(SALU_CYCLE_1) | instskip(SKIP_1) | instid1(VALU_DEP_1) ; bf8700a9
	s_cmpk_ge_u32 s0, 0x400                                     ; b6000400
	s_waitcnt vmcnt(3)                                          ; bf890ff7
	v_fmac_f32_e32 v4, v8, v9                                   ; 56081308
	s_waitcnt vmcnt(2)                                          ; bf890bf7
	v_fmac_f32_e32 v3, v6, v9                                   ; 56061306
	s_waitcnt vmcnt(1)                                          ; bf8907f7
	v_fmac_f32_e32 v2, v7, v9                                   ; 56041307
	s_waitcnt vmcnt(0)                                          ; bf8903f7
	v_fmac_f32_e32 v1, v5, v9                                   ; 56021305
	s_cbranch_scc0 BB1                                          ; bfa1ffde
BB5:
	s_set_inst_prefetch_distance 0x3                            ; bf840003
	s_load_b128 s[0:3], s[2:3], 0x10                            ; f4080001 f8000010
	v_add_f32_e32 v4, v4, v3                                    ; 06080704
	v_lshlrev_b32_e32 v0, 2, v0                                 ; 30000082
	s_delay_alu instid0(VALU_DEP_2) | instskip(NEXT) | instid1(VALU_DEP_1) ; bf870092
	v_add_f32_e32 v4, v4, v2                                    ; 06080504
	v_add_f32_e32 v4, v4, v1                                    ; 06080304
	s_waitcnt lgkmcnt(0)                                        ; bf89fc07
	buffer_store_b32 v4, v0, s[0:3], 0 offen                    ; e0680000 80400400
	s_nop 0                                                     ; bf800000
	s_sendmsg sendmsg(MSG_DEALLOC_VGPRS)                        ; bfb60003
	s_endpgm                                                    ; bfb00000
