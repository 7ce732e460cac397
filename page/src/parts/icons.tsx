// Drawings beside words; a screen reader passes them over.

import type { ComponentChildren } from "preact";

function Icon({ children }: { children: ComponentChildren }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      {children}
    </svg>
  );
}

export const Microphone = () => (
  <Icon>
    <rect x="9" y="3" width="6" height="11" rx="3" />
    <path d="M5.500 11.500a6.500 6.500 0 0 0 13 0M12 18v3" />
  </Icon>
);
export const Stop = () => (
  <Icon>
    <rect class="solid" x="6.500" y="6.500" width="11" height="11" rx="2" />
  </Icon>
);
export const Play = () => (
  <Icon>
    <path class="solid" d="M8 5.500v13l11-6.500z" />
  </Icon>
);
export const Pause = () => (
  <Icon>
    <path d="M8.500 6v12M15.500 6v12" />
  </Icon>
);
export const Pencil = () => (
  <Icon>
    <path d="M4.500 19.500l1-4.200L16 4.800a1.500 1.500 0 0 1 2.100 0l1.100 1.100a1.500 1.500 0 0 1 0 2.100L8.700 18.500z" />
  </Icon>
);
export const Cross = () => (
  <Icon>
    <path d="M6.500 6.500l11 11M17.500 6.500l-11 11" />
  </Icon>
);
export const Bin = () => (
  <Icon>
    <path d="M5 7h14M10 7V5h4v2M7 7l.8 12h8.400L17 7" />
  </Icon>
);
export const Again = () => (
  <Icon>
    <path d="M19 12a7 7 0 1 1-2.200-5.100M19 4v4h-4" />
  </Icon>
);
export const File = () => (
  <Icon>
    <path d="M12 16V5M7.500 9L12 4.500 16.500 9M5 15v3.500h14V15" />
  </Icon>
);
export const Down = () => (
  <Icon>
    <path d="M12 5v11M7.500 11.500L12 16l4.500-4.500M5 19.500h14" />
  </Icon>
);
export const Copy = () => (
  <Icon>
    <path d="M9 9h10v10H9zM5 15V5h10" />
  </Icon>
);
export const Theme = () => (
  <Icon>
    <circle cx="12" cy="12" r="7.500" />
    <path class="solid" d="M12 4.500a7.500 7.500 0 0 1 0 15z" />
  </Icon>
);
