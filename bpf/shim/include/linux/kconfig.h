/* bcc force-includes this file. The programs depend on no kernel configuration. */
#define CONFIG_BPF_SYSCALL 1
