"""`meanstep reproduce latents`: the coefficient's arms trained side by side on images or latents, measured at matched moments."""
