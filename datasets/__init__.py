"""Any data set as uint8 images and labels. Draws nothing but the fixed split; knows no network."""
