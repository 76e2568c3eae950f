// rdi, rsi, rdx: to, from, length. All loads of a short case come before its stores, so that overlap does no harm.

    .text
    .globl hvt_memmove
    .type hvt_memmove, @function
    .p2align 6
hvt_memmove:
    .cfi_startproc
    mov rax, rdi
    cmp rdx, 16
    jb 10f
    cmp rdx, 32
    ja 20f
    movups xmm0, [rsi]
    movups xmm1, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm1
    ret
    .p2align 4
10: // 0 to 15
    cmp edx, 8
    jb 11f
    mov rcx, [rsi]
    mov rsi, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], rsi
    ret
11: cmp edx, 4
    jb 12f
    mov ecx, [rsi]
    mov esi, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], esi
    ret
12: cmp edx, 1
    jb 14f
    je 13f
    movzx ecx, word ptr [rsi]
    movzx esi, byte ptr [rsi + rdx - 1]
    mov [rdi], cx
    mov [rdi + rdx - 1], sil
    ret
13: movzx ecx, byte ptr [rsi]
    mov [rdi], cl
14: ret
    .p2align 4
20: // 33 to 64
    cmp rdx, 64
    ja 30f
    movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + rdx - 32]
    movups xmm3, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + rdx - 32], xmm2
    movups [rdi + rdx - 16], xmm3
    ret
    .p2align 4
30: // 65 to 128
    cmp rdx, 128
    ja 40f
    movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + 32]
    movups xmm3, [rsi + 48]
    movups xmm4, [rsi + rdx - 64]
    movups xmm5, [rsi + rdx - 48]
    movups xmm6, [rsi + rdx - 32]
    movups xmm7, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + 32], xmm2
    movups [rdi + 48], xmm3
    movups [rdi + rdx - 64], xmm4
    movups [rdi + rdx - 48], xmm5
    movups [rdi + rdx - 32], xmm6
    movups [rdi + rdx - 16], xmm7
    ret
    .p2align 4
40: cmp byte ptr [rip + {level}], 1
    jb 70f
    cmp rdx, 256
    ja 50f
    vmovdqu ymm0, [rsi]
    vmovdqu ymm1, [rsi + 32]
    vmovdqu ymm2, [rsi + 64]
    vmovdqu ymm3, [rsi + 96]
    vmovdqu ymm4, [rsi + rdx - 128]
    vmovdqu ymm5, [rsi + rdx - 96]
    vmovdqu ymm6, [rsi + rdx - 64]
    vmovdqu ymm7, [rsi + rdx - 32]
    vmovdqu [rdi], ymm0
    vmovdqu [rdi + 32], ymm1
    vmovdqu [rdi + 64], ymm2
    vmovdqu [rdi + 96], ymm3
    vmovdqu [rdi + rdx - 128], ymm4
    vmovdqu [rdi + rdx - 96], ymm5
    vmovdqu [rdi + rdx - 64], ymm6
    vmovdqu [rdi + rdx - 32], ymm7
    vzeroupper
    ret
    .p2align 4
50: // Above 256 by 32-byte registers. Backwards when the target lies inside of the source's range.
    mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx
    jb 60f
    cmp rdx, {move_threshold}
    jae 58f
51: vmovdqu ymm4, [rsi]
    vmovdqu ymm5, [rsi + rdx - 128]
    vmovdqu ymm6, [rsi + rdx - 96]
    vmovdqu ymm7, [rsi + rdx - 64]
    vmovdqu ymm8, [rsi + rdx - 32]
    lea r8, [rdi + rdx - 128]
    mov rcx, rdi
    mov r9, rdi
    or rcx, 31
    inc rcx
    sub rsi, rdi
    mov rdi, rcx
    .p2align 5
52: vmovdqu ymm0, [rsi + rdi]
    vmovdqu ymm1, [rsi + rdi + 32]
    vmovdqu ymm2, [rsi + rdi + 64]
    vmovdqu ymm3, [rsi + rdi + 96]
    vmovdqa [rdi], ymm0
    vmovdqa [rdi + 32], ymm1
    vmovdqa [rdi + 64], ymm2
    vmovdqa [rdi + 96], ymm3
    sub rdi, -128
    cmp rdi, r8
    jb 52b
    vmovdqu [r8], ymm5
    vmovdqu [r8 + 32], ymm6
    vmovdqu [r8 + 64], ymm7
    vmovdqu [r8 + 96], ymm8
    vmovdqu [r9], ymm4
    vzeroupper
    ret
58: // The string instruction reads forwards and is slow when the source lies just ahead of the target.
    cmp byte ptr [rip + {level}], 2
    jb 51b
    mov rcx, rsi
    sub rcx, rdi
    cmp rcx, 64
    jb 51b
    mov rcx, rdx
    rep movsb
    ret
    .p2align 4
60: // Backwards.
    vmovdqu ymm4, [rsi + rdx - 32]
    vmovdqu ymm5, [rsi]
    vmovdqu ymm6, [rsi + 32]
    vmovdqu ymm7, [rsi + 64]
    vmovdqu ymm8, [rsi + 96]
    lea r9, [rdi + rdx - 32]
    lea rcx, [rdi + rdx - 1]
    and rcx, -32
    lea r8, [rdi + 128]
    sub rsi, rdi
    .p2align 5
61: vmovdqu ymm0, [rsi + rcx - 32]
    vmovdqu ymm1, [rsi + rcx - 64]
    vmovdqu ymm2, [rsi + rcx - 96]
    vmovdqu ymm3, [rsi + rcx - 128]
    vmovdqa [rcx - 32], ymm0
    vmovdqa [rcx - 64], ymm1
    vmovdqa [rcx - 96], ymm2
    vmovdqa [rcx - 128], ymm3
    add rcx, -128
    cmp rcx, r8
    ja 61b
    vmovdqu [rdi], ymm5
    vmovdqu [rdi + 32], ymm6
    vmovdqu [rdi + 64], ymm7
    vmovdqu [rdi + 96], ymm8
    vmovdqu [r9], ymm4
    vzeroupper
    ret
    .p2align 4
70: // Above 128 without AVX: 64 bytes at a time.
    mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx
    jb 75f
    movups xmm4, [rsi + rdx - 64]
    movups xmm5, [rsi + rdx - 48]
    movups xmm6, [rsi + rdx - 32]
    movups xmm7, [rsi + rdx - 16]
    lea r8, [rdi + rdx - 64]
    sub rsi, rdi
    .p2align 5
71: movups xmm0, [rsi + rdi]
    movups xmm1, [rsi + rdi + 16]
    movups xmm2, [rsi + rdi + 32]
    movups xmm3, [rsi + rdi + 48]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + 32], xmm2
    movups [rdi + 48], xmm3
    add rdi, 64
    cmp rdi, r8
    jb 71b
    movups [r8], xmm4
    movups [r8 + 16], xmm5
    movups [r8 + 32], xmm6
    movups [r8 + 48], xmm7
    ret
75: movups xmm4, [rsi]
    movups xmm5, [rsi + 16]
    movups xmm6, [rsi + 32]
    movups xmm7, [rsi + 48]
    lea rcx, [rdi + rdx]
    lea r8, [rdi + 64]
    sub rsi, rdi
    .p2align 5
76: movups xmm0, [rsi + rcx - 16]
    movups xmm1, [rsi + rcx - 32]
    movups xmm2, [rsi + rcx - 48]
    movups xmm3, [rsi + rcx - 64]
    movups [rcx - 16], xmm0
    movups [rcx - 32], xmm1
    movups [rcx - 48], xmm2
    movups [rcx - 64], xmm3
    sub rcx, 64
    cmp rcx, r8
    ja 76b
    movups [rdi], xmm4
    movups [rdi + 16], xmm5
    movups [rdi + 32], xmm6
    movups [rdi + 48], xmm7
    ret
    .cfi_endproc
    .size hvt_memmove, . - hvt_memmove

// rdi, esi, rdx: to, byte, length.

    .globl hvt_memset
    .type hvt_memset, @function
    .p2align 6
hvt_memset:
    .cfi_startproc
    mov rax, rdi
    movzx esi, sil
    mov rcx, 0x0101010101010101
    imul rsi, rcx
    cmp rdx, 16
    jb 10f
    movq xmm0, rsi
    punpcklqdq xmm0, xmm0
    cmp rdx, 64
    ja 20f
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm0
    cmp rdx, 32
    jbe 9f
    movups [rdi + 16], xmm0
    movups [rdi + rdx - 32], xmm0
9:  ret
    .p2align 4
10: cmp edx, 8
    jb 11f
    mov [rdi], rsi
    mov [rdi + rdx - 8], rsi
    ret
11: cmp edx, 4
    jb 12f
    mov [rdi], esi
    mov [rdi + rdx - 4], esi
    ret
12: test edx, edx
    jz 13f
    mov [rdi], sil
    mov [rdi + rdx - 1], sil
    cmp edx, 2
    jbe 13f
    mov [rdi + 1], sil
13: ret
    .p2align 4
20: cmp rdx, {fill_threshold}
    jae 40f
21: cmp byte ptr [rip + {level}], 1
    jb 50f
    vinserti128 ymm0, ymm0, xmm0, 1
    cmp rdx, 128
    ja 30f
    vmovdqu [rdi], ymm0
    vmovdqu [rdi + 32], ymm0
    vmovdqu [rdi + rdx - 64], ymm0
    vmovdqu [rdi + rdx - 32], ymm0
    vzeroupper
    ret
    .p2align 4
30: vmovdqu [rdi], ymm0
    lea r8, [rdi + rdx - 128]
    or rdi, 31
    inc rdi
    cmp rdi, r8
    jae 32f
    .p2align 5
31: vmovdqa [rdi], ymm0
    vmovdqa [rdi + 32], ymm0
    vmovdqa [rdi + 64], ymm0
    vmovdqa [rdi + 96], ymm0
    sub rdi, -128
    cmp rdi, r8
    jb 31b
32: vmovdqu [r8], ymm0
    vmovdqu [r8 + 32], ymm0
    vmovdqu [r8 + 64], ymm0
    vmovdqu [r8 + 96], ymm0
    vzeroupper
    ret
40: cmp byte ptr [rip + {level}], 2
    jb 21b
    mov r8, rax
    mov rcx, rdx
    mov eax, esi
    rep stosb
    mov rax, r8
    ret
    .p2align 4
50: // 65 and more without AVX.
    lea r8, [rdi + rdx - 64]
    .p2align 5
51: movups [rdi], xmm0
    movups [rdi + 16], xmm0
    movups [rdi + 32], xmm0
    movups [rdi + 48], xmm0
    add rdi, 64
    cmp rdi, r8
    jb 51b
    movups [r8], xmm0
    movups [r8 + 16], xmm0
    movups [r8 + 32], xmm0
    movups [r8 + 48], xmm0
    ret
    .cfi_endproc
    .size hvt_memset, . - hvt_memset

// rdi, rsi, rdx: a, b, length. The answer is the difference of the first two bytes that differ.

    .globl hvt_memcmp
    .type hvt_memcmp, @function
    .p2align 6
hvt_memcmp:
    .cfi_startproc
    cmp rdx, 16
    jb 30f
    cmp rdx, 64
    ja 40f
10: lea r8, [rdx - 16]
    xor ecx, ecx
    .p2align 4
11: movups xmm0, [rdi + rcx]
    movups xmm1, [rsi + rcx]
    pcmpeqb xmm0, xmm1
    pmovmskb eax, xmm0
    sub eax, 0xffff
    jnz 20f
    add rcx, 16
    cmp rcx, r8
    jb 11b
    mov rcx, r8
    movups xmm0, [rdi + rcx]
    movups xmm1, [rsi + rcx]
    pcmpeqb xmm0, xmm1
    pmovmskb eax, xmm0
    sub eax, 0xffff
    jnz 20f
    ret
20: // The lowest clear bit of the mask is the first difference.
    add eax, 0x10000
    bsf eax, eax
    add rcx, rax
    movzx eax, byte ptr [rdi + rcx]
    movzx edx, byte ptr [rsi + rcx]
    sub eax, edx
    ret
    .p2align 4
30: cmp edx, 8
    jb 31f
    mov rax, [rdi]
    mov rcx, [rsi]
    cmp rax, rcx
    jne 35f
    mov rax, [rdi + rdx - 8]
    mov rcx, [rsi + rdx - 8]
    cmp rax, rcx
    jne 35f
    xor eax, eax
    ret
31: cmp edx, 4
    jb 32f
    mov eax, [rdi]
    mov ecx, [rsi]
    cmp eax, ecx
    jne 36f
    mov eax, [rdi + rdx - 4]
    mov ecx, [rsi + rdx - 4]
    cmp eax, ecx
    jne 36f
    xor eax, eax
    ret
32: xor eax, eax
    xor ecx, ecx
33: cmp ecx, edx
    jae 34f
    movzx eax, byte ptr [rdi + rcx]
    movzx r8d, byte ptr [rsi + rcx]
    inc ecx
    sub eax, r8d
    jz 33b
34: ret
35: bswap rax
    bswap rcx
    cmp rax, rcx
    sbb eax, eax
    or eax, 1
    ret
36: bswap eax
    bswap ecx
    cmp eax, ecx
    sbb eax, eax
    or eax, 1
    ret
    .p2align 4
40: cmp byte ptr [rip + {level}], 1
    jb 10b
    lea r8, [rdx - 32]
    xor ecx, ecx
    .p2align 5
41: vmovdqu ymm0, [rdi + rcx]
    vpcmpeqb ymm0, ymm0, [rsi + rcx]
    vpmovmskb eax, ymm0
    inc eax
    jnz 45f
    add rcx, 32
    cmp rcx, r8
    jb 41b
    mov rcx, r8
    vmovdqu ymm0, [rdi + rcx]
    vpcmpeqb ymm0, ymm0, [rsi + rcx]
    vpmovmskb eax, ymm0
    inc eax
    jnz 45f
    vzeroupper
    ret
45: bsf eax, eax
    add rcx, rax
    movzx eax, byte ptr [rdi + rcx]
    movzx edx, byte ptr [rsi + rcx]
    sub eax, edx
    vzeroupper
    ret
    .cfi_endproc
    .size hvt_memcmp, . - hvt_memcmp
