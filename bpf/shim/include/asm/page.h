/* For the size of the ring buffer, which bcc counts in pages. */
#define PAGE_SIZE 4096
